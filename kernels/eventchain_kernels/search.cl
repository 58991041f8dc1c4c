/* OpenCL shell. Compile with -DLANES=<1, 2, 4, 8, 16 or 32>, -DGROUP=<work-items in a group> and
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
#if LANES == 32
/* OpenCL's vectors end at 16; these are Clang's, from which most drivers are made. */
typedef uint uint32 __attribute__((ext_vector_type(32)));
#define ANY_ZERO(x) (any((x).lo == (uint16)(0)) || any((x).hi == (uint16)(0)))
#else
#define ANY_ZERO(x) any((x) == (WORD)(0))
#endif
/* Vectors are for CPUs, which may have no rotate and no select: x ^ y is next round's y ^ z and is shared. */
#define WORD JOIN(uint, LANES)
#define ROTR(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define CH(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJ(x, y, z) ((y) ^ (((x) ^ (y)) & ((y) ^ (z))))
#define LANE_NUMBERS ((WORD)(LANE_LIST))
#define LANE(x, k) (((const U32 *)&(x))[k])
#define LANE_LIST JOIN(LIST_, LANES)
#endif
#define LIST_2 0, 1
#define LIST_4 LIST_2, 2, 3
#define LIST_8 LIST_4, 4, 5, 6, 7
#define LIST_16 LIST_8, 8, 9, 10, 11, 12, 13, 14, 15
#define LIST_32 LIST_16, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31

#if LANES > 1 && VERSIONS > 1
#define MANY JOIN(uint, VERSIONS)
#define MANY_LANES VERSIONS
#define MANY_NUMBERS ((MANY)(JOIN(LIST_, VERSIONS)))
#define MANY_LANE(x, k) (((const U32 *)&(x))[k])
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
#define KEYED_FROM 8
#else
#define KEYED_SPACE __local WORD keyed[KEYED_WORDS * GROUP]
#define KEYED_PARAMETER , __local WORD *keyed
#define KEYED_ARGUMENT , keyed
#define KEYED(i) keyed[(i) * GROUP + LOCAL_ID]
#endif

#include "search.h"
