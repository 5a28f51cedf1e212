"""The host's limits, by the program host_limits: what rates are put beside."""

from llama_peer import cpu_flags, run

SECONDS = 0.3


class Limits:
    def __init__(self, program):
        self.program = program

    def rate(self, what, *arguments, seconds=SECONDS):
        """GFLOP/s, 10⁹ operations/s or GB/s; None where the processor lacks it."""
        answer = run([self.program, what, *map(str, arguments), str(seconds)]).stdout.strip()
        return None if answer == "none" else float(answer)

    def has_amx(self):
        return "amx_int8" in cpu_flags()

    def all(self, megabytes):
        """{name: {threads: rate}} for 1 and 2 threads; `megabytes` are sizes of weights."""
        found = {f"{name}": {t: self.rate(what, t, seconds=0.7) for t in (1, 2)}
                 for what, name in (("fma", "FMA F32, GFLOP/s"), ("int8", "int8 dot products, GOP/s"), ("amx-bf16", "AMX bf16, GFLOP/s"), ("amx-int8", "AMX int8, GOP/s"))}
        for size in megabytes:
            found[f"read {size:.0f} MB, GB/s"] = {t: self.rate("read", size, t, seconds=0.7) for t in (1, 2)}
        return {name: by for name, by in found.items() if by[1] is not None}
