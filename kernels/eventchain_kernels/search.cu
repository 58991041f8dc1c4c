/* CUDA shell. Compile with -DGROUP=<threads in a block>, -DGROUPS_AN_SM=<blocks that an SM shall hold> and
   -DVERSIONS=<rolled versions of a job>. */

#define U32 unsigned int
#define U64 unsigned long long
#define WORD U32
#define LANES 1
#define FUNCTION static __device__ __forceinline__
#define TABLE static __constant__ const
#define GLOBAL
#ifndef KERNEL
#define KERNEL extern "C" __global__ __launch_bounds__(GROUP, GROUPS_AN_SM)
#endif
#define LOCAL_SHARED __shared__
#define LOCAL_ID threadIdx.x
#define GLOBAL_ID (blockIdx.x * blockDim.x + threadIdx.x)
#define BARRIER __syncthreads()
#define FETCH_ADD(p, x) atomicAdd(p, x)
#define CLAIM(p, x) atomicCAS(p, 0u, x)
#define LOAD(p) (*(volatile const U32 *)(p))
#define ROTR(x, n) __funnelshift_r(x, x, n)
#define BYTE_SWAPPED(x) __byte_perm(x, 0u, 0x0123)
#define CH(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJ(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#define LANE_NUMBERS 0u
#define ANY_ZERO(x) ((x) == 0)
#define LANE(x, k) (x)

#define READY_SPACE

#if VERSIONS == 1
#define READY_OF(p, from) const Ready constants_copied = *(from); const Ready *p = &constants_copied
#define KEYED_SPACE
#define KEYED_PARAMETER
#define KEYED_ARGUMENT
#else
#define READY_OF(p, from) const Ready *p = from
#define KEYED_SPACE __shared__ U32 keyed[KEYED_WORDS * GROUP]
#define KEYED_PARAMETER , U32 *keyed
#define KEYED_ARGUMENT , keyed
#define KEYED(i) keyed[(i) * GROUP + LOCAL_ID]
#endif

#ifndef ADD
/* Rotates and logic keep the ALU busy while the multipliers idle, so additions go there: x * one + y, with a
   `one` that the compiler cannot see through. */
FUNCTION U32 multiply_add(U32 x, U32 one, U32 y)
{
    U32 sum;
    asm("mad.lo.u32 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(one), "r"(y));
    return sum;
}
#define ADD(x, y) multiply_add(x, one, y)
#endif

#include "search.h"
