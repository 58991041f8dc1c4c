/* OpenCL shell. Compile with -DLANES=<1, 2, 4, 8 or 16>, -DGROUP=<work-items in a group> and
   -DVERSIONS=<rolled versions of a job>. */

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define U32 uint
#define U64 ulong
#define FUNCTION static inline
#define TABLE __constant
#define GLOBAL __global
#define KERNEL __kernel
#define LOCAL_SHARED __local
#define LOCAL_ID ((U32)get_local_id(0))
#define GLOBAL_ID ((U32)get_global_id(0))
#if GROUP == 1
#define BARRIER
#else
#define BARRIER barrier(CLK_LOCAL_MEM_FENCE)
#endif
#define BYTE_SWAPPED(x) ((x) << 24 | ((x) & 0xff00u) << 8 | ((x) >> 8 & 0xff00u) | (x) >> 24)
#define FETCH_ADD(p, x) atomic_add(p, x)
#define CLAIM(p, x) atomic_cmpxchg(p, 0u, x)
#define LOAD(p) (*(volatile __global U32 *)(p))
#define ADD(x, y) ((x) + (y))

#if LANES == 1
#define WORD uint
#define ROTR(x, n) rotate(x, (U32)(32 - (n)))
#define CH(x, y, z) bitselect(z, y, x)
#define MAJ(x, y, z) bitselect(x, y, (x) ^ (z))
#define LANE_NUMBERS 0u
#define ANY_ZERO(x) ((x) == 0)
#define LANE(x, k) (x)
#else
/* Vectors are for CPUs, which may have no rotate and no select: x ^ y is next round's y ^ z and is shared. */
#define WORD JOIN(uint, LANES)
#define ROTR(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define CH(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJ(x, y, z) ((y) ^ (((x) ^ (y)) & ((y) ^ (z))))
#define LANE_NUMBERS ((WORD)(LANE_LIST))
#define ANY_ZERO(x) any((x) == (WORD)(0))
#define LANE(x, k) (((const U32 *)&(x))[k])
#if LANES == 2
#define LANE_LIST 0, 1
#elif LANES == 4
#define LANE_LIST 0, 1, 2, 3
#elif LANES == 8
#define LANE_LIST 0, 1, 2, 3, 4, 5, 6, 7
#else
#define LANE_LIST 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#endif
#endif

#define READY_SPACE
#define READY_OF(p, from) const Ready constants_copied = *(from); const Ready *p = &constants_copied

#if VERSIONS == 1
#define KEYED_SPACE
#define KEYED_PARAMETER
#define KEYED_ARGUMENT
#elif GROUP == 1
#define KEYED_SPACE WORD keyed[KEYED_WORDS]
#define KEYED_PARAMETER , WORD *keyed
#define KEYED_ARGUMENT , keyed
#define KEYED(i) keyed[i]
#else
#define KEYED_SPACE __local WORD keyed[KEYED_WORDS * GROUP]
#define KEYED_PARAMETER , __local WORD *keyed
#define KEYED_ARGUMENT , keyed
#define KEYED(i) keyed[(i) * GROUP + LOCAL_ID]
#endif

#include "search.h"
