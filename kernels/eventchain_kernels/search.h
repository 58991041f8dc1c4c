/* The search kernels, shared by the shells.

   A unit of work is a job and a chunk of its nonces; the first chunks of all jobs come before any second
   chunk. Groups of GROUP work-items take the next unit from a counter until none is left, and skip jobs whose
   header has been won. So many easy headers cost little more than their hashes, and one hard header fills the
   device. A shell defines besides what the core needs:
     KERNEL            the qualifiers of a kernel
     LOCAL_SHARED      the qualifiers of a variable that the group shares
     GROUP             work-items in a group; LANES: nonces that each tries at once
     LOCAL_ID, GLOBAL_ID                 the work-item in its group, and over all
     BARRIER           waits for the whole group
     FETCH_ADD(p, x)   atomic *p += x, gives the old value
     CLAIM(p, x)       atomic: if *p is 0 it becomes x; gives the old value
     LOAD(p)           reads a word that others may be writing
     READY_OF(p, from) declares p, from which lanes read the job's constants that lie at `from`
     KEYED_SPACE       declares what KEYED_ARGUMENT passes on, with a comma before it; or nothing
     LANE_NUMBERS      WORD that holds 0 to LANES - 1
     ANY_ZERO(x)       whether any lane of WORD x is zero
     LANE(x, k)        lane k of WORD x
*/

#ifdef KEYED
#define SHARE_SCHEDULE(p, number) expand_keyed(p, number, one KEYED_ARGUMENT);
#else
#define SHARE_SCHEDULE(p, number)
#endif

#include "sha256d.h"

/* A work-item for each MANY_LANES versions of each job; the rest of a grid does nothing. */
KERNEL void prepare_jobs(const GLOBAL Job *jobs, GLOBAL Ready *ready, U32 count)
{
    U32 i = GLOBAL_ID * MANY_LANES;
    if (i < count * VERSIONS)
        prepare(&jobs[i / VERSIONS], &ready[i / VERSIONS], i % VERSIONS);
}

/* One launch: `units` units, which are chunks of `chunk` nonces of `job_count` jobs.

   counter:  the next unit; 0 before the launch
   winner:   a word a header: 1 + the roll of the version that won it, or 0
   nonce:    a word a header: the winner's nonce; set when the launch is over, not with the winner
   one:      1 (see ADD)
*/
KERNEL void search(const GLOBAL Job *jobs, const GLOBAL Ready *ready, U32 job_count, U32 chunk, U32 units,
                   GLOBAL U32 *counter, GLOBAL U32 *winner, GLOBAL U32 *nonce, U32 one)
{
    LOCAL_SHARED U32 next;
    KEYED_SPACE;
    for (;;) {
        BARRIER; /* all have read the last unit */
        if (LOCAL_ID == 0)
            next = FETCH_ADD(counter, 1u);
        BARRIER;
        if (next >= units)
            return;
        const GLOBAL Job *job = &jobs[next % job_count];
        U64 offset = (U64)(next / job_count) * chunk;
        if (offset >= job->count || LOAD(&winner[job->index]))
            continue;
        READY_OF(constants, &ready[next % job_count]);
        U32 begin = job->first + (U32)offset;
        U32 count = job->count - offset < chunk ? (U32)(job->count - offset) : chunk;
        for (U32 i = LOCAL_ID * LANES; i < count; i += GROUP * LANES) {
            WORD number = LANE_NUMBERS + (begin + i);
            SHARE_SCHEDULE(constants, number)
            for (U32 v = 0; v < VERSIONS; v++) {
                WORD top = lane(constants, v, number, one KEYED_ARGUMENT);
                if (ANY_ZERO(top))
                    for (U32 k = 0; k < LANES && i + k < count; k++)
                        if (LANE(top, k) == 0 && wins(job, begin + i + k, v)) {
                            if (CLAIM(&winner[job->index], job->roll + v + 1) == 0)
                                nonce[job->index] = begin + i + k;
                            count = 0, k = LANES, v = VERSIONS; /* this unit is done */
                        }
            }
        }
    }
}
