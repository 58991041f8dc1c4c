/* CUDA shell. Compile with -DGROUP=<threads in a block>, -DGROUPS_AN_SM=<blocks that an SM shall hold>,
   -DVERSIONS=<rolled versions of a job>, -DADD_PIPE=<ALU or FMA> and -DSIGMA_PIPE=<ALU, FMA or FP64>. */

#define ALU 0
#define FMA 1
#define FP64 2

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
#ifndef UNROLL_16
#define UNROLL_16 _Pragma("unroll 16")
#endif

#define READY_SPACE

#if VERSIONS == 1
#define READY_OF(p, from) const Ready constants_copied = *(from); const Ready *p = &constants_copied
#define KEYED_SPACE
#define KEYED_PARAMETER
#define KEYED_ARGUMENT
#else
/* In shared memory, aligned and with four words of a thread side by side: a load brings four. */
#define READY_OF(p, from) \
    __shared__ __align__(16) Ready constants_copied; \
    for (U32 word = LOCAL_ID; word < sizeof(Ready) / 4; word += GROUP) \
        ((U32 *)&constants_copied)[word] = ((const U32 *)(from))[word]; \
    BARRIER; \
    const Ready *p = &constants_copied
#define KEYED_SPACE __shared__ __align__(16) U32 keyed[(KEYED_WORDS + 3) / 4 * 4 * GROUP]
#define KEYED_PARAMETER , U32 *keyed
#define KEYED_ARGUMENT , keyed
#define KEYED(i) keyed[((i) / 4 * GROUP + LOCAL_ID) * 4 + (i) % 4]
#endif

#if ADD_PIPE == ALU
#define ADD(x, y) ((x) + (y))
#else
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

/* The schedule's shifts and rotates can leave the ALU too. */
#if SIGMA_PIPE == FMA
/* x >> n is the upper half of x * 2^(32 - n). */
#define SHIFTED(x, n) __umulhi(x, 1u << (32 - (n)))
#define WORD_s0(x) (ROTR(x, 7) ^ ROTR(x, 18) ^ SHIFTED(x, 3))
#define WORD_s1(x) (ROTR(x, 17) ^ ROTR(x, 19) ^ SHIFTED(x, 10))
#elif SIGMA_PIPE == FP64
/* For GPUs with many 64-bit units, which idle otherwise. With x as the lower word and TWO_52's as the upper, a
   double holds 2^52 + x. One fused multiply-add, rounded toward zero, makes of it 2^52 + floor(x * 2^(32 - n) +
   x / 2^n), whose lower word is x rotated; the product stays below 2^52 for n >= 12. One addition makes of it
   2^(52 + n) + x, where the last n bits are rounded off: the lower word is x >> n. */
#define TWO_52 4503599627370496.0

FUNCTION double biased(U32 x)
{
    return __hiloint2double(0x43300000, (int)x);
}

FUNCTION U32 rotated(double x, int n)
{
    double factor = (double)(1ull << (32 - n)) + 1.0 / (double)(1ull << n);
    return (U32)__double2loint(__fma_rz(x, factor, TWO_52 - TWO_52 * factor));
}

FUNCTION U32 shifted(double x, int n)
{
    return (U32)__double2loint(__dadd_rz(x, TWO_52 * (double)((1 << n) - 1)));
}

FUNCTION U32 word_s0(U32 x)
{
    return ROTR(x, 7) ^ rotated(biased(x), 18) ^ shifted(biased(x), 3);
}

FUNCTION U32 word_s1(U32 x)
{
    return rotated(biased(x), 17) ^ rotated(biased(x), 19) ^ shifted(biased(x), 10);
}
#define WORD_s0(x) word_s0(x)
#define WORD_s1(x) word_s1(x)
#endif

#include "search.h"
