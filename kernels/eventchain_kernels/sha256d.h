/* The SHA-256d core: one text for OpenCL, CUDA and a host build.

   It searches nonce and version of an 80-byte block header. The second block of the first hash is the header's
   last three words, the nonce and padding, and the second hash has one block. What does not depend on the
   nonce, such as the state after the header's first block (the midstate), is done once a job and version
   (`prepare`). The second block's schedule depends on the nonce and not on the version, so versions share it
   (`expand_keyed`). A lane (`lane`) computes only word 7 of the digest, the most significant of the number that
   is held against the target; what may be a hit is computed again in full (`wins`).
   Source of the algorithm: FIPS 180-4.

   A shell defines, before it includes this:
     U32, U64          unsigned integers of 32 and 64 bits
     WORD              U32, or a vector of it: one nonce a lane
     ROTR(x, n)        rotate right by a constant, on WORD and on U32
     BYTE_SWAPPED(x)   the four bytes in reverse order, on WORD and on U32
     CH, MAJ           the two choices of FIPS 180-4, on WORD
     ADD(x, y)         x + y on WORD; may use the kernel argument `one`, which holds 1 (see search.cu)
     FUNCTION          the qualifiers of a device function
     TABLE             the qualifiers of a constant table
     GLOBAL            the address space of buffers
     VERSIONS          rolled versions of a job
     MANY              U32, or where vectors are as cheap one of MANY_LANES versions (1, or all of a job), with
                       MANY_NUMBERS, the numbers from 0 on, and MANY_LANE(x, k), lane k; BYTE_SWAPPED takes it too
     KEYED(i)          if the schedule is to be expanded into a table once a nonce (always, where there is more
                       than one version): word i of a work-item's own KEYED_WORDS words of type WORD
     KEYED_FROM        the first round that the table serves: 18 if it is not defined, the first that depends on
                       the nonce; or 8: the rounds are a loop, and all code fits into a CPU's cache
     KEYED_PARAMETER   declares, with a comma before it, the parameter that KEYED reads and writes; or nothing
     WORD_s0, WORD_s1  on WORD what SHA_s0 and SHA_s1 are; where it leaves them out they are these
     UNROLL_16         unrolls the loop behind it 16 times, where arrays with a variable index are dear; or nothing
     READY_SPACE       the address space from which a lane reads a job's constants
*/

#ifndef MANY
#define MANY U32
#define MANY_LANES 1
#define MANY_NUMBERS 0u
#define MANY_LANE(x, k) (x)
#endif
#ifndef KEYED_FROM
#define KEYED_FROM 18
#endif

#define ROLL_MASK 0x1fffe000u /* of the header's version: BIP 320 */
#define ROLL_SHIFT 13

#define K0 0x428a2f98u
#define K1 0x71374491u
#define K2 0xb5c0fbcfu
#define K3 0xe9b5dba5u
#define K4 0x3956c25bu
#define K5 0x59f111f1u
#define K6 0x923f82a4u
#define K7 0xab1c5ed5u
#define K8 0xd807aa98u
#define K9 0x12835b01u
#define K10 0x243185beu
#define K11 0x550c7dc3u
#define K12 0x72be5d74u
#define K13 0x80deb1feu
#define K14 0x9bdc06a7u
#define K15 0xc19bf174u
#define K16 0xe49b69c1u
#define K17 0xefbe4786u
#define K18 0x0fc19dc6u
#define K19 0x240ca1ccu
#define K20 0x2de92c6fu
#define K21 0x4a7484aau
#define K22 0x5cb0a9dcu
#define K23 0x76f988dau
#define K24 0x983e5152u
#define K25 0xa831c66du
#define K26 0xb00327c8u
#define K27 0xbf597fc7u
#define K28 0xc6e00bf3u
#define K29 0xd5a79147u
#define K30 0x06ca6351u
#define K31 0x14292967u
#define K32 0x27b70a85u
#define K33 0x2e1b2138u
#define K34 0x4d2c6dfcu
#define K35 0x53380d13u
#define K36 0x650a7354u
#define K37 0x766a0abbu
#define K38 0x81c2c92eu
#define K39 0x92722c85u
#define K40 0xa2bfe8a1u
#define K41 0xa81a664bu
#define K42 0xc24b8b70u
#define K43 0xc76c51a3u
#define K44 0xd192e819u
#define K45 0xd6990624u
#define K46 0xf40e3585u
#define K47 0x106aa070u
#define K48 0x19a4c116u
#define K49 0x1e376c08u
#define K50 0x2748774cu
#define K51 0x34b0bcb5u
#define K52 0x391c0cb3u
#define K53 0x4ed8aa4au
#define K54 0x5b9cca4fu
#define K55 0x682e6ff3u
#define K56 0x748f82eeu
#define K57 0x78a5636fu
#define K58 0x84c87814u
#define K59 0x8cc70208u
#define K60 0x90befffau
#define K61 0xa4506cebu
#define K62 0xbef9a3f7u
#define K63 0xc67178f2u

#define IV0 0x6a09e667u
#define IV1 0xbb67ae85u
#define IV2 0x3c6ef372u
#define IV3 0xa54ff53au
#define IV4 0x510e527fu
#define IV5 0x9b05688cu
#define IV6 0x1f83d9abu
#define IV7 0x5be0cd19u

TABLE U32 SHA256_K[64] = {
    K0, K1, K2, K3, K4, K5, K6, K7, K8, K9, K10, K11, K12, K13, K14, K15,
    K16, K17, K18, K19, K20, K21, K22, K23, K24, K25, K26, K27, K28, K29, K30, K31,
    K32, K33, K34, K35, K36, K37, K38, K39, K40, K41, K42, K43, K44, K45, K46, K47,
    K48, K49, K50, K51, K52, K53, K54, K55, K56, K57, K58, K59, K60, K61, K62, K63
};

/* One header with a run of its rolled versions, as the host sends it (`eventchain.mining.jobs.JOB`). */
typedef struct {
    U32 header[20]; /* as in the work, little-endian words */
    U32 target[8];  /* little-endian words, 7 the most significant */
    U32 first;      /* first nonce to try */
    U32 index;      /* of the header in the work */
    U32 roll;       /* the first of VERSIONS rolled versions */
    U32 rolls;      /* nonce * rolls + roll is a counter */
    U64 count;      /* nonces to try, at least 1; first + count is at most 2^32 */
    U64 begin, end; /* counters from begin to end - 1 may win */
} Job;

/* What a lane needs of a job. */
typedef struct {
    U32 state[VERSIONS][8]; /* entering round 4, without the nonce in words 0 and 4, with K4 + W4 in word 7 */
    U32 midstate[VERSIONS][8];
    U32 w16, w17;           /* schedule words without the nonce */
    U32 w18, w19;           /* the same, less their terms in the nonce */
    U32 w31, w32;           /* the terms of these that are without the nonce */
    U32 mask;               /* bits of digest word 7 that are zero in every hash that meets the target */
} Ready;

#define SHA_S0(x) (ROTR(x, 2) ^ ROTR(x, 13) ^ ROTR(x, 22))
#define SHA_S1(x) (ROTR(x, 6) ^ ROTR(x, 11) ^ ROTR(x, 25))
#define SHA_s0(x) (ROTR(x, 7) ^ ROTR(x, 18) ^ ((x) >> 3))
#define SHA_s1(x) (ROTR(x, 17) ^ ROTR(x, 19) ^ ((x) >> 10))

#ifndef WORD_s0
#define WORD_s0(x) SHA_s0(x)
#define WORD_s1(x) SHA_s1(x)
#endif
#ifndef UNROLL_16
#define UNROLL_16
#endif

/* -- once a job, and for candidates: rolled and small ----------------------------------------------------- */

FUNCTION U32 byte_swapped(U32 x)
{
    return BYTE_SWAPPED(x);
}

/* Rounds `begin` to `end` of the compression function; `w` is overwritten with the next 16 schedule words. */
FUNCTION void sha256_rounds(MANY *s, MANY *w, int begin, int end)
{
    UNROLL_16
    for (int i = begin; i < end; i++) {
        MANY *x = &w[i & 15];
        if (i >= 16)
            *x += SHA_s0(w[(i + 1) & 15]) + w[(i + 9) & 15] + SHA_s1(w[(i + 14) & 15]);
        MANY t = s[7] + SHA_S1(s[4]) + (s[6] ^ (s[4] & (s[5] ^ s[6]))) + SHA256_K[i] + *x;
        MANY u = SHA_S0(s[0]) + ((s[0] & s[1]) | (s[2] & (s[0] | s[1])));
        for (int k = 7; k > 0; k--)
            s[k] = s[k - 1];
        s[4] += t;
        s[0] = t + u;
    }
}

/* One compression: `s` is the state, `w` the block, which is overwritten. */
FUNCTION void sha256_block(MANY *s, MANY *w)
{
    MANY before[8];
    for (int k = 0; k < 8; k++)
        before[k] = s[k];
    sha256_rounds(s, w, 0, 64);
    for (int k = 0; k < 8; k++)
        s[k] += before[k];
}

FUNCTION void initial_state(MANY *s)
{
    s[0] = (MANY)(IV0), s[1] = (MANY)(IV1), s[2] = (MANY)(IV2), s[3] = (MANY)(IV3);
    s[4] = (MANY)(IV4), s[5] = (MANY)(IV5), s[6] = (MANY)(IV6), s[7] = (MANY)(IV7);
}

/* The state after the header's first 64 bytes with version `v` of the job, and the ones after it. */
FUNCTION void midstate_of(const GLOBAL Job *job, U32 v, MANY *s)
{
    MANY w[16];
    MANY version = (MANY_NUMBERS + (job->roll + v)) << ROLL_SHIFT | (job->header[0] & ~ROLL_MASK);
    w[0] = BYTE_SWAPPED(version);
    for (int k = 1; k < 16; k++)
        w[k] = (MANY)(byte_swapped(job->header[k]));
    initial_state(s);
    sha256_block(s, w);
}

/* The second block's first words, with a nonce of 0 and no padding yet. */
FUNCTION void tail_of(const GLOBAL Job *job, MANY *w)
{
    for (int k = 0; k < 16; k++)
        w[k] = (MANY)(k < 3 ? byte_swapped(job->header[16 + k]) : 0u);
}

/* Version `v` of the job and the ones after it; the first also makes what all of them share. */
FUNCTION void prepare(const GLOBAL Job *job, GLOBAL Ready *ready, U32 v)
{
    MANY s[8], w[16];
    midstate_of(job, v, s);
    for (int k = 0; k < 8; k++)
        for (U32 i = 0; i < MANY_LANES; i++)
            ready->midstate[v + i][k] = MANY_LANE(s[k], i);
    tail_of(job, w);
    sha256_rounds(s, w, 0, 4);
    s[7] += K4 + 0x80000000u;
    for (int k = 0; k < 8; k++)
        for (U32 i = 0; i < MANY_LANES; i++)
            ready->state[v + i][k] = MANY_LANE(s[k], i);
    if (v)
        return;
    U32 w0 = byte_swapped(job->header[16]), w1 = byte_swapped(job->header[17]), w2 = byte_swapped(job->header[18]);
    ready->w16 = w0 + SHA_s0(w1);
    ready->w17 = w1 + SHA_s0(w2) + 0x01100000u; /* s1(W15), W15 = 640, the length in bits */
    ready->w18 = w2 + SHA_s1(ready->w16);
    ready->w19 = 0x11002000u + SHA_s1(ready->w17); /* s0(W4), W4 = 0x80000000, the padding bit */
    ready->w31 = 640u + SHA_s0(ready->w16);
    ready->w32 = ready->w16 + SHA_s0(ready->w17);
    U32 top = job->target[7];
    for (int k = 1; k < 32; k *= 2)
        top |= top >> k;
    ready->mask = byte_swapped(~top);
}

/* Whether the job's header with this nonce, a little-endian number, and version `v` is to be tried and its
   hash at most the target. */
FUNCTION int wins(const GLOBAL Job *job, U32 nonce, U32 v)
{
    U64 counter = (U64)nonce * job->rolls + (job->roll + v);
    if (counter < job->begin || counter >= job->end)
        return 0;
    MANY s[8], w[16];
    midstate_of(job, v, s);
    tail_of(job, w);
    w[3] = (MANY)(byte_swapped(nonce));
    w[4] = (MANY)(0x80000000u);
    w[15] = (MANY)(640u);
    sha256_block(s, w);
    for (int k = 0; k < 16; k++)
        w[k] = k < 8 ? s[k] : (MANY)(0u);
    w[8] = (MANY)(0x80000000u);
    w[15] = (MANY)(256u);
    initial_state(s);
    sha256_block(s, w);
    for (int k = 7; k >= 0; k--) {
        U32 digest = byte_swapped(MANY_LANE(s[k], 0));
        if (digest != job->target[k])
            return digest < job->target[k];
    }
    return 1;
}

/* -- once a nonce: unrolled, every index a constant ------------------------------------------------------- */

/* The working variables stay in place and their names move: S(i, 0) is `a` in round i, S(i, 7) is `h`. */
#define S(i, k) s[((k) - (i)) & 7]
#define W(i) w[(i) & 15]

/* Round i, given h + K + W. */
#define STEP(i, hkw) \
    t = ADD(ADD(hkw, SHA_S1(S(i, 4))), CH(S(i, 4), S(i, 5), S(i, 6))); \
    S(i, 3) = ADD(S(i, 3), t); \
    S(i, 7) = ADD(ADD(t, SHA_S0(S(i, 0))), MAJ(S(i, 0), S(i, 1), S(i, 2)));

/* Round i with a schedule word that is a constant, and with one that is in w. */
#define ROUND_K(i, c) STEP(i, ADD(S(i, 7), K##i + (c)))
#define ROUND(i) STEP(i, ADD(S(i, 7), ADD(W(i), K##i)))
#define EXPAND(i) W(i) = ADD(ADD(W(i), WORD_s0(W(i + 1))), ADD(W(i + 9), WORD_s1(W(i + 14))));
#define NEXT(i) EXPAND(i) ROUND(i)

/* The first hash's schedule from W18 on, USE(i) after each word. */
#define FIRST_SCHEDULE(USE) \
    W(16) = p->w16; W(17) = p->w17; \
    W(18) = ADD(WORD_s0(nonce), p->w18); USE(18) \
    W(19) = ADD(nonce, p->w19); USE(19) \
    W(20) = ADD(WORD_s1(W(18)), 0x80000000u); USE(20) \
    W(21) = WORD_s1(W(19)); USE(21) \
    W(22) = ADD(WORD_s1(W(20)), 640u); USE(22) \
    W(23) = ADD(WORD_s1(W(21)), W(16)); USE(23) \
    W(24) = ADD(WORD_s1(W(22)), W(17)); USE(24) \
    W(25) = ADD(WORD_s1(W(23)), W(18)); USE(25) \
    W(26) = ADD(WORD_s1(W(24)), W(19)); USE(26) \
    W(27) = ADD(WORD_s1(W(25)), W(20)); USE(27) \
    W(28) = ADD(WORD_s1(W(26)), W(21)); USE(28) \
    W(29) = ADD(WORD_s1(W(27)), W(22)); USE(29) \
    W(30) = ADD(ADD(WORD_s1(W(28)), 0x00a00055u), W(23)); USE(30) /* s0(W15) */ \
    W(31) = ADD(ADD(WORD_s1(W(29)), W(24)), p->w31); USE(31) \
    W(32) = ADD(ADD(WORD_s1(W(30)), W(25)), p->w32); USE(32) \
    EXPAND(33) USE(33) EXPAND(34) USE(34) EXPAND(35) USE(35) EXPAND(36) USE(36) EXPAND(37) USE(37) \
    EXPAND(38) USE(38) EXPAND(39) USE(39) EXPAND(40) USE(40) EXPAND(41) USE(41) EXPAND(42) USE(42) \
    EXPAND(43) USE(43) EXPAND(44) USE(44) EXPAND(45) USE(45) EXPAND(46) USE(46) EXPAND(47) USE(47) \
    EXPAND(48) USE(48) EXPAND(49) USE(49) EXPAND(50) USE(50) EXPAND(51) USE(51) EXPAND(52) USE(52) \
    EXPAND(53) USE(53) EXPAND(54) USE(54) EXPAND(55) USE(55) EXPAND(56) USE(56) EXPAND(57) USE(57) \
    EXPAND(58) USE(58) EXPAND(59) USE(59) EXPAND(60) USE(60) EXPAND(61) USE(61) EXPAND(62) USE(62) \
    EXPAND(63) USE(63)

#ifdef KEYED
/* All versions share the schedule: it is expanded once a nonce, with K, into a table. */
#define KEYED_WORDS (64 - KEYED_FROM)
#define KEEP(i) KEYED(i - KEYED_FROM) = ADD(W(i), K##i);
#define KEYED_ROUND(i) STEP(i, ADD(S(i, 7), KEYED(i - KEYED_FROM)))
#define NEXT_KEYED_ROUND(k) STEP(k, ADD(S(k, 7), KEYED(i + k)))

FUNCTION void expand_keyed(const READY_SPACE Ready *p, WORD number, U32 one KEYED_PARAMETER)
{
    WORD w[16];
    WORD nonce = BYTE_SWAPPED(number);
    (void)one;
#if KEYED_FROM == 8
    for (U32 i = 0; i < 8; i++)
        KEYED(i) = SHA256_K[8 + i] + (i == 7 ? 640u : 0u);
    KEYED(8) = p->w16 + K16;
    KEYED(9) = p->w17 + K17;
#endif
    FIRST_SCHEDULE(KEEP)
}
#endif

/* Word 7 of the digest for one nonce a lane with version v, less the bits that may be set in a hit: 0 for what
   may be one. */
FUNCTION WORD lane(const READY_SPACE Ready *p, U32 v, WORD number, U32 one KEYED_PARAMETER)
{
    WORD s[8], w[16], t;
    WORD nonce = BYTE_SWAPPED(number); /* the header is little-endian, SHA-256 is big-endian */
    (void)one;

    /* First hash, from round 4 on. S(4, 0) and S(4, 4) hold the nonce's share of round 3. */
    S(4, 0) = nonce + p->state[v][0];
    S(4, 4) = nonce + p->state[v][4];
    S(4, 1) = p->state[v][1], S(4, 2) = p->state[v][2], S(4, 3) = p->state[v][3];
    S(4, 5) = p->state[v][5], S(4, 6) = p->state[v][6];
    STEP(4, p->state[v][7])
    ROUND_K(5, 0) ROUND_K(6, 0) ROUND_K(7, 0)
#if defined KEYED && KEYED_FROM == 8
    for (U32 i = 0; i < KEYED_WORDS; i += 8) {
        NEXT_KEYED_ROUND(0) NEXT_KEYED_ROUND(1) NEXT_KEYED_ROUND(2) NEXT_KEYED_ROUND(3)
        NEXT_KEYED_ROUND(4) NEXT_KEYED_ROUND(5) NEXT_KEYED_ROUND(6) NEXT_KEYED_ROUND(7)
    }
#else
    ROUND_K(8, 0) ROUND_K(9, 0) ROUND_K(10, 0) ROUND_K(11, 0)
    ROUND_K(12, 0) ROUND_K(13, 0) ROUND_K(14, 0) ROUND_K(15, 640u)
    W(16) = p->w16; ROUND(16)
    W(17) = p->w17; ROUND(17)
#ifdef KEYED
    KEYED_ROUND(18) KEYED_ROUND(19) KEYED_ROUND(20) KEYED_ROUND(21) KEYED_ROUND(22) KEYED_ROUND(23)
    KEYED_ROUND(24) KEYED_ROUND(25) KEYED_ROUND(26) KEYED_ROUND(27) KEYED_ROUND(28) KEYED_ROUND(29)
    KEYED_ROUND(30) KEYED_ROUND(31) KEYED_ROUND(32) KEYED_ROUND(33) KEYED_ROUND(34) KEYED_ROUND(35)
    KEYED_ROUND(36) KEYED_ROUND(37) KEYED_ROUND(38) KEYED_ROUND(39) KEYED_ROUND(40) KEYED_ROUND(41)
    KEYED_ROUND(42) KEYED_ROUND(43) KEYED_ROUND(44) KEYED_ROUND(45) KEYED_ROUND(46) KEYED_ROUND(47)
    KEYED_ROUND(48) KEYED_ROUND(49) KEYED_ROUND(50) KEYED_ROUND(51) KEYED_ROUND(52) KEYED_ROUND(53)
    KEYED_ROUND(54) KEYED_ROUND(55) KEYED_ROUND(56) KEYED_ROUND(57) KEYED_ROUND(58) KEYED_ROUND(59)
    KEYED_ROUND(60) KEYED_ROUND(61) KEYED_ROUND(62) KEYED_ROUND(63)
#else
    FIRST_SCHEDULE(ROUND)
#endif
#endif

    /* Second hash. Its first round starts from constants; rounds 1 to 3 have a constant h. */
    W(0) = ADD(S(64, 0), p->midstate[v][0]), W(1) = ADD(S(64, 1), p->midstate[v][1]);
    W(2) = ADD(S(64, 2), p->midstate[v][2]), W(3) = ADD(S(64, 3), p->midstate[v][3]);
    W(4) = ADD(S(64, 4), p->midstate[v][4]), W(5) = ADD(S(64, 5), p->midstate[v][5]);
    W(6) = ADD(S(64, 6), p->midstate[v][6]), W(7) = ADD(S(64, 7), p->midstate[v][7]);
    S(1, 0) = ADD(W(0), 0xfc08884du);
    S(1, 4) = ADD(W(0), 0x98c7e2a2u);
    S(1, 1) = IV0, S(1, 2) = IV1, S(1, 3) = IV2, S(1, 5) = IV4, S(1, 6) = IV5, S(1, 7) = IV6;
    STEP(1, ADD(W(1), IV6 + K1))
    STEP(2, ADD(W(2), IV5 + K2))
    STEP(3, ADD(W(3), IV4 + K3))
    ROUND(4) ROUND(5) ROUND(6) ROUND(7)
    ROUND_K(8, 0x80000000u) ROUND_K(9, 0) ROUND_K(10, 0) ROUND_K(11, 0)
    ROUND_K(12, 0) ROUND_K(13, 0) ROUND_K(14, 0) ROUND_K(15, 256u)
    W(16) = ADD(W(0), WORD_s0(W(1))); ROUND(16)
    W(17) = ADD(ADD(W(1), 0x00a00000u), WORD_s0(W(2))); ROUND(17) /* s1(W15) */
    W(18) = ADD(ADD(W(2), WORD_s0(W(3))), WORD_s1(W(16))); ROUND(18)
    W(19) = ADD(ADD(W(3), WORD_s0(W(4))), WORD_s1(W(17))); ROUND(19)
    W(20) = ADD(ADD(W(4), WORD_s0(W(5))), WORD_s1(W(18))); ROUND(20)
    W(21) = ADD(ADD(W(5), WORD_s0(W(6))), WORD_s1(W(19))); ROUND(21)
    W(22) = ADD(ADD(ADD(W(6), 256u), WORD_s0(W(7))), WORD_s1(W(20))); ROUND(22)
    W(23) = ADD(ADD(ADD(W(7), 0x11002000u), WORD_s1(W(21))), W(16)); ROUND(23) /* s0(W8) */
    W(24) = ADD(ADD(WORD_s1(W(22)), 0x80000000u), W(17)); ROUND(24)
    W(25) = ADD(WORD_s1(W(23)), W(18)); ROUND(25)
    W(26) = ADD(WORD_s1(W(24)), W(19)); ROUND(26)
    W(27) = ADD(WORD_s1(W(25)), W(20)); ROUND(27)
    W(28) = ADD(WORD_s1(W(26)), W(21)); ROUND(28)
    W(29) = ADD(WORD_s1(W(27)), W(22)); ROUND(29)
    W(30) = ADD(ADD(WORD_s1(W(28)), 0x00400022u), W(23)); ROUND(30) /* s0(W15) */
    W(31) = ADD(ADD(ADD(WORD_s1(W(29)), 256u), W(24)), WORD_s0(W(16))); ROUND(31)
    NEXT(32) NEXT(33) NEXT(34) NEXT(35) NEXT(36) NEXT(37) NEXT(38) NEXT(39) NEXT(40) NEXT(41) NEXT(42)
    NEXT(43) NEXT(44) NEXT(45) NEXT(46) NEXT(47) NEXT(48) NEXT(49) NEXT(50) NEXT(51) NEXT(52) NEXT(53)
    NEXT(54) NEXT(55) NEXT(56) NEXT(57) NEXT(58) NEXT(59) NEXT(60)
    /* `e` after round 60 is `h` after round 63; the compiler drops what only later rounds would use. */
    return ADD(S(61, 4), IV7) & p->mask;
}
