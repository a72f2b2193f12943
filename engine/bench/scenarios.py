"""Carries out a plan: targets load, prove their answers, warm up, and take turns in windows until they are steady.

The words are MLPerf LoadGen's: `single`, `multi`, `server`, `offline`; `peak` searches the highest rate of `server`
that keeps an SLO. How queries are sent is `load`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from distilrt.bench import answers, peak, turns, wire, workloads
from distilrt.bench.child import PeerError
from distilrt.bench.findings import Findings, Row
from distilrt.bench.latencies import Slo, Window
from distilrt.bench.load import Load
from distilrt.bench.progress import Say
from distilrt.bench.roofline import Roofline
from distilrt.bench.samples import Samples
from distilrt.bench.session import Session
from distilrt.bench.targets import OURS, PEERS, Spec
from distilrt.bench.turns import LEAD, SHORTEST, WINDOWS
from distilrt.model.config import DistilBertConfig

SCENARIOS = ("single", "multi", "server", "offline", "peak")
CHECKED = 8  # answers compared with float32's, of each workload
CHECKED_TOKENS = 1024
RETEST = 2.0  # times a duration, of `peak`
WARM_UP = 1.0  # seconds, at most a window's


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure of every target and workload.

    Attributes:
        scenario: of `SCENARIOS`.
        duration, count: least seconds and queries of each measurement.
        rates: queries per second of `server`, each measured.
        slo: of `peak`.
        seed: of texts' order and times.
        in_flight: requests at a time while `peak` looks for a server's limit.
    """

    scenario: str
    duration: float = 10.0
    count: int = 32
    rates: tuple[float, ...] = ()
    slo: Slo | None = None
    seed: int = 0
    in_flight: int = 32

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"a scenario is one of {', '.join(SCENARIOS)}; found {self.scenario!r}")
        if (self.scenario == "server") != bool(self.rates):
            raise ValueError("--scenario server needs --rate, queries per second, and no other scenario takes it")
        if (self.scenario == "peak") != (self.slo is not None):
            raise ValueError("--scenario peak needs --slo, as in p99=20ms, and no other scenario takes it")
        if not 0 < self.duration < 1e6 or self.count < 1 or any(not 0 < rate < 1e6 for rate in self.rates):
            raise ValueError("durations, counts and rates must be above 0, and rates and durations below a million")

    def describe(self) -> Row:
        """JSON-ready."""
        return asdict(self) | {"slo": None if self.slo is None else str(self.slo)}

    @property
    def seconds(self) -> float:
        """Of one target on one workload, roughly."""
        if self.scenario == "peak":
            return self.duration * (peak.FLOOD + peak.HALVINGS + RETEST * peak.RETESTS)
        leads = 1 + LEAD / SHORTEST if self.scenario in ("single", "multi") else 1
        return (leads * self.duration + min(WARM_UP, self.duration / WINDOWS)) * max(1, len(self.rates))


def run(
    specs: Sequence[Spec], loads: Sequence[Samples], plan: Plan, findings: Findings, *,
    exact_model: str, peaks: Callable[[], Roofline], say: Say,
) -> None:  # fmt: skip
    """Measure every target on every workload; rows appear in `findings` as they are complete.

    A target that cannot load, fails, or answers otherwise than float32 is left out with its reason.

    Args:
        specs: the targets.
        loads: the workloads.
        plan: what to measure.
        findings: filled.
        exact_model: the checkpoint, in float weights, whose answers in float32 are the right ones.
        peaks: measures the machine's; called before and after.
        say: told of every step.
    """
    say("answers in float32", 2.0)
    with Session(Spec(OURS, "float32", exact_model, backend="reference"), loads[0]) as exact:
        expected = []
        for samples in loads:
            exact.prepare(samples)
            expected.append(exact.answers(checked_indices(samples)))
    say("peaks of the machine", 2.0)
    roofline = peaks()
    with ExitStack() as stack:
        sessions: dict[Spec, Session] = {}
        for spec in specs:
            say(f"loading {spec.named}", 2.0)
            try:
                if spec.name in PEERS:  # the first start converts and compiles what is kept
                    Session(spec, loads[0]).close()
                sessions[spec] = stack.enter_context(Session(spec, loads[0]))
            except PeerError as reason:
                findings.left_out.append(f"{spec.named}: {reason}")
        for samples, right in zip(loads, expected, strict=True):
            findings.workloads.append(samples.describe())
            checked = _check(sessions, samples, right, findings, say)
            for load in _loads(plan, samples):
                found: dict[Spec, Row] = {}
                try:
                    _measure(sessions, checked, samples, load, plan, findings, say, found)
                finally:  # what there is when Ctrl-C comes, too
                    for spec, row in found.items():
                        row |= checked[spec] | {"start_s": _rounded(sessions[spec].start_s, 3)}
                        row["peak_mb"] = _rounded(_peak_mb(sessions[spec]), 1)
                        row["peak_share"] = _share(row, spec, samples, roofline, plan)
                        findings.rows.append(row)
    findings.complete = True


def checked_indices(samples: Samples) -> list[int]:
    """Indices of a few samples: the first ones, up to so many tokens."""
    chosen, tokens = list[int](), 0
    for index, length in enumerate(samples.lengths[:CHECKED]):
        tokens += length
        if chosen and tokens > CHECKED_TOKENS:
            break
        chosen.append(index)
    return chosen


def quality(spec: Spec, session: Session, samples: Samples, right: Sequence[answers.Answer]) -> answers.Quality:
    """How far a few answers of a target are from float32's.

    Args:
        spec, session: the target.
        samples: that it was prepared with.
        right: float32's answers to `checked_indices` of them.

    Raises:
        PeerError: too far, or there are none.
    """
    found = session.answers(checked_indices(samples))
    if spec.is_url and wire.FORMATS[spec.wire].softmax:
        found, right = [answers.centred(each) for each in found], [answers.centred(each) for each in right]
    quality = answers.compare(found, right, session.facts.dtype)
    if not quality.ok:
        raise PeerError(f"its answers are off by {quality.max_difference:.1e} of the largest; "
                        f"allowed is {quality.bound:.0e}: no speed of a wrong engine")  # fmt: skip
    return quality


def _check(
    sessions: Mapping[Spec, Session], samples: Samples, right: Sequence[answers.Answer], findings: Findings, say: Say
) -> dict[Spec, Row]:
    """What is known of the targets whose answers are right."""
    known = {}
    for spec, session in sessions.items():
        say(f"checking {spec.named}", 0.5)
        try:
            session.prepare(samples)
            found = quality(spec, session, samples, right)
        except PeerError as reason:
            findings.left_out.append(f"{spec.named} on {samples.name}: {reason}")
        else:
            facts = session.facts
            known[spec] = {"target": spec.label, "dtype": facts.dtype, "version": facts.version,
                           "engine_threads": facts.threads, "workload": samples.name,
                           "mean_tokens": samples.describe()["mean_tokens"], "padding": round(samples.padding, 4),
                           "max_difference": float(f"{found.max_difference:.2e}"),
                           "mean_difference": float(f"{found.mean_difference:.2e}"),
                           "cosine": round(found.cosine, 6), "agreement": _rounded(found.agreement, 4)}  # fmt: skip
    return known


def _loads(plan: Plan, samples: Samples) -> Iterator[Load]:
    """The windows' loads, one for each row of a target."""
    seconds, count = plan.duration / WINDOWS, -(-plan.count // WINDOWS)
    if plan.scenario == "offline":
        yield Load("offline", seconds, 1, seed=plan.seed)
    elif plan.scenario in ("single", "multi"):
        yield Load(plan.scenario, seconds, count, size=samples.batch if plan.scenario == "multi" else 1, seed=plan.seed)
    elif plan.scenario == "server":
        for rate in plan.rates:
            yield Load("server", seconds, count, rate=rate, seed=plan.seed)
    else:
        yield Load("server", plan.duration, plan.count, seed=plan.seed)


def _measure(
    sessions: Mapping[Spec, Session], checked: Mapping[Spec, Row], samples: Samples, load: Load, plan: Plan,
    findings: Findings, say: Say, rows: dict[Spec, Row],
) -> None:  # fmt: skip
    alive, text_s = {spec: sessions[spec] for spec in checked}, 0.0
    for spec in list(alive):
        say(f"{samples.name}: warming up {spec.named}", min(WARM_UP, load.seconds))
        window = turns.measure(alive, spec, Load("single", min(WARM_UP, load.seconds), 2), findings)
        text_s = max(text_s, float(window.latencies.mean()) if window else 0.0)
    if plan.slo is None:
        texts = len(samples.inputs) if load.scenario == "offline" else load.size
        turns.take(alive, load, text_s * texts, samples.name, findings, say, rows)
        return

    def measured(spec: Spec, wanted: Load) -> Window | None:
        at = f"at {wanted.rate:.3g}/s" if wanted.rate else "at its limit"
        say(f"{samples.name}: {spec.named} {at}", wanted.seconds)
        return turns.measure(alive, spec, wanted, findings)

    retest = RETEST * plan.duration
    searches = {spec: peak.search(load, plan.slo, in_flight=plan.in_flight, retest=retest) for spec in alive}
    peak.take_turns(searches, measured, rows)


def _share(row: Row, spec: Spec, samples: Samples, peaks: Roofline, plan: Plan) -> float | None:
    """Of the machine's peak arithmetic, what the answered texts needed; of engines on the CPU."""
    peak = peaks.flops.get(row["dtype"])
    if spec.is_url or not peak or "cuda" in row["version"] or not row.get("samples_per_s"):
        return None
    config = DistilBertConfig.from_pretrained(spec.model)
    one_row = spec.name == OURS and samples.task == "text-classification"
    flops = workloads.Workload("", (samples.lengths,)).flops(config, last_layer_rows=1 if one_row else None)
    share: float = flops / len(samples.lengths) * row["samples_per_s"] / peak
    return round(share, 4)


def _peak_mb(session: Session) -> float | None:
    try:
        return session.peak_mb()
    except PeerError:  # Ctrl-C ended it
        return None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
