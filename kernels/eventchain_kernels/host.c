/* Host shell, for tests: the CUDA shell's own text as C, one group of one thread at a time. Compile with
   -DVERSIONS=<rolled versions of a job> and -DSIGMA_PIPE=<ALU, FMA or FP64>. */

#define ADD_PIPE ALU

#include <fenv.h>
#include <math.h>
#include <string.h>

#define GROUP 1
#define UNROLL_16
#define KERNEL
#define __device__
#define __forceinline__ inline
#define __constant__
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __syncthreads() ((void)0)
#define __funnelshift_r(x, y, n) ((x) >> (n) | (y) << (32 - (n)))
#define __byte_perm(x, y, order) __builtin_bswap32(x)
#define __umulhi(x, y) ((unsigned)((unsigned long long)(x) * (y) >> 32))

static inline double __hiloint2double(int high, int low)
{
    unsigned long long bits = (unsigned long long)(unsigned)high << 32 | (unsigned)low;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline int __double2loint(double x)
{
    unsigned long long bits;
    memcpy(&bits, &x, sizeof bits);
    return (int)(unsigned)bits;
}

static inline double __fma_rz(double x, double y, double z)
{
    volatile double a = x; /* read after the rounding mode is set */
    fesetround(FE_TOWARDZERO);
    volatile double sum = fma(a, y, z);
    fesetround(FE_TONEAREST);
    return sum;
}

static inline double __dadd_rz(double x, double y)
{
    return __fma_rz(x, 1.0, y);
}

static struct { unsigned x; } threadIdx, blockIdx;
static const struct { unsigned x; } blockDim = {1};

static unsigned atomicAdd(unsigned *p, unsigned x)
{
    unsigned old = *p;
    *p += x;
    return old;
}

static unsigned atomicCAS(unsigned *p, unsigned expected, unsigned x)
{
    unsigned old = *p;
    if (old == expected)
        *p = x;
    return old;
}

#include "search.cu"

/* Word 7 of the double hash of the job's header with this nonce and version `v`. */
U32 word7(const Job *job, U32 nonce, U32 v)
{
    Ready ready;
    KEYED_SPACE;
    for (U32 k = 0; k < VERSIONS; k++)
        prepare(job, &ready, k);
    ready.mask = 0xffffffffu;
    U32 one = 1;
    SHARE_SCHEDULE(&ready, nonce)
    return lane(&ready, v, nonce, one KEYED_ARGUMENT);
}

int meets_target(const Job *job, U32 nonce, U32 v)
{
    return wins(job, nonce, v);
}

/* `prepare_jobs` for every job: a grid of a thread for each version of each. */
void prepare_all(const Job *jobs, Ready *ready, U32 count)
{
    for (blockIdx.x = 0; blockIdx.x < count * VERSIONS; blockIdx.x++)
        prepare_jobs(jobs, ready, count);
}
