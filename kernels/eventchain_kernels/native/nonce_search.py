"""Generates ``search_jobs`` and ``search_rolled``: they try the counters of many jobs for a double SHA-256
that meets a target. A job (``eventchain.mining.jobs.JOB``) is a header with one or with ``versions`` of its
rolled versions.

What depends on the job alone is made once for each unit of work that a thread takes (:mod:`.search_job`).
Then for a vector of nonces the schedule of the header's second block is expanded, constants added, into
memory that stays in the first-level cache, and every version reads it from there. The hot code has no branch
but its own loops: it computes word 7 of the second digest (the most significant of the hash as a
little-endian integer) and compares once. Only a candidate is hashed again, alone, and compared over all
256 bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from eventchain_kernels.native import search_job as job_code
from eventchain_kernels.native.emit import I32, I64, Code
from eventchain_kernels.native.search_sha import with_extensions
from eventchain_kernels.native.search_vectors import with_vectors

ARGUMENTS = ("jobs", "n", "stop", "part", "next", "found")
"""jobs: address of n jobs, each cut into parts of ``part`` nonces; work item k < stop is part k // n of job
k % n; next: address of the i64 counter from which all threads take items; found: i64 a header, −1 or the
counter of its hit; jobs of a header that has one are passed over."""


def build(module: ir.Module, lanes: int, sha_extensions: bool, *, versions: int, ternary: bool) -> None:
    """versions: of a job, a power of two; ternary: AVX-512's logic of three operands is there."""
    prepare, check = job_code.prepare(module, versions), job_code.check(module, versions)
    code = Code(module, module.name, ARGUMENTS)
    jobs, n, stop, part, counter, found = code.args()
    b = code.builder
    counter_pointer = b.inttoptr(counter, I64.as_pointer())
    rows = code.array(I32, job_code.ROWS * versions)
    with code.forever() as work:
        k = b.atomic_rmw("add", counter_pointer, I64(1), "monotonic")
        work.leave_unless(code.less(k, stop))
        job = code.at(jobs, b.urem(k, n), job_code.SIZE)
        header = b.zext(code.load(I32, b.add(job, I64(job_code.INDEX)), 4), I64)
        answer = b.inttoptr(code.at(found, header), I64.as_pointer())

        def is_open(answer: Any = answer) -> Any:
            return b.icmp_signed("<", b.load_atomic(answer, "monotonic", 8), I64(0))

        work.next_unless(is_open())
        begin = b.mul(b.udiv(k, n), part)
        count = code.load(I64, b.add(job, I64(job_code.COUNT)), 8)
        work.next_unless(code.less(begin, count))
        size = code.minimum(part, b.sub(count, begin))
        first = b.add(code.load(I32, b.add(job, I64(job_code.FIRST)), 4), b.trunc(begin, I32))
        b.call(prepare, [job, rows])
        if sha_extensions:
            search = with_extensions(code, job, rows, lanes, versions)
        else:
            search = with_vectors(code, job, rows, lanes, versions, ternary)
        with code.count(size, lanes) as (i, nonces):
            nonce = b.add(first, b.trunc(i, I32))
            left = b.sub(size, i)

            def hit(version: Any, candidates: Any, sure: Any, nonce: Any = nonce, left: Any = left) -> Any:
                arguments = [job, rows, version, b.zext(nonce, I64), candidates, sure, left]
                counter = b.call(check, arguments)
                yes = b.icmp_signed(">=", counter, I64(0))
                with b.if_then(yes):
                    b.store_atomic(counter, answer, "monotonic", 8)
                return yes

            search(nonce, hit)
            nonces.next_unless(b.not_(is_open()))
            nonces.leave()
    b.ret_void()
