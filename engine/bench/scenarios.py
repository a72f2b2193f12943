"""Carries out a plan: targets load, prove their answers, warm up, and take turns in windows until they are steady.

The words are MLPerf LoadGen's: `single`, `multi`, `server`, `offline`; `peak` searches the highest rate of `server`
that keeps an SLO. How queries are sent is `load`'s matter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from distilrt.bench import answers, artefacts, peak, peers, roofline, turns, wire
from distilrt.bench.busy import busy
from distilrt.bench.findings import Findings, Row
from distilrt.bench.load import Load
from distilrt.bench.peers import OURS
from distilrt.bench.progress import Say
from distilrt.bench.roofline import Roofline
from distilrt.bench.samples import IDS, Samples
from distilrt.bench.session import PeerError, Session
from distilrt.bench.statistics import Slo, Window
from distilrt.bench.targets import Spec
from distilrt.bench.turns import LEAD, SHORTEST, WINDOWS, Field
from distilrt.errors import InvalidParameter
from distilrt.model.config import DistilBertConfig

SCENARIOS = ("single", "multi", "server", "offline", "peak")
# For engines without a tokenizer: batches of one shape one after the other, a mix of lengths all at once.
ALONE = "alone"
CHECKED = 8  # answers compared with float32's, of each workload
CHECKED_TOKENS = 1024
RETEST = 2.0  # times a duration, of `peak`
WARM_UP = 1.0  # seconds, at most a window's
STREAMING_TOKENS = 16  # a batch of so few waits for weights, not for arithmetic


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure of every target and workload.

    Attributes:
        scenario: of `SCENARIOS`.
        duration, count: least seconds and queries of each measurement.
        rates: queries per second of `server`, each measured.
        slo: of `peak`.
        most_windows: of a measurement, where targets do not get steady.
        behind: see `turns.take`.
        busy: numbers of processes that keep a core each; everything is measured beside each number of them.
    """

    scenario: str
    duration: float = 10.0
    count: int = 32
    rates: tuple[float, ...] = ()
    slo: Slo | None = None
    most_windows: int = turns.MOST_WINDOWS
    behind: float = math.inf
    busy: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.scenario not in (*SCENARIOS, ALONE):
            raise InvalidParameter(f"a scenario is one of {', '.join(SCENARIOS)}; found {self.scenario!r}")
        if (self.scenario == "server") != bool(self.rates):
            raise InvalidParameter("--scenario server needs --rate, queries per second, and no other scenario takes it")
        if (self.scenario == "peak") != (self.slo is not None):
            raise InvalidParameter("--scenario peak needs --slo, as in p99=20ms, and no other scenario takes it")
        if not 0 < self.duration < 1e6 or self.count < 1 or any(not 0 < rate < 1e6 for rate in self.rates):
            raise InvalidParameter(
                "durations, counts and rates must be above 0, and rates and durations below a million"
            )

    def describe(self) -> Row:
        """JSON-ready."""
        given = asdict(self) | {"slo": None if self.slo is None else str(self.slo)}
        return {name: value for name, value in given.items() if value != math.inf}

    def at_once(self, samples: Samples) -> bool:
        """Whether all these samples are sent at once."""
        return self.scenario == "offline" or (self.scenario == ALONE and not samples.fixed)

    def loads(self, samples: Samples) -> list[Load]:
        """The windows' loads, one for each row of a target."""
        seconds, count = self.duration / WINDOWS, -(-self.count // WINDOWS)
        if self.at_once(samples):
            return [Load("offline", seconds, 1)]
        if self.scenario in ("multi", ALONE):
            return [Load("multi", seconds, count, size=samples.batch)]
        if self.scenario == "peak":
            return [Load("server", self.duration, self.count)]
        return [Load(self.scenario, seconds, count, rate=rate) for rate in self.rates or (0.0,)]

    @property
    def seconds(self) -> float:
        """Of one target on one workload, roughly."""
        if self.scenario == "peak":
            return self.duration * (peak.FLOOD + peak.HALVINGS + RETEST * peak.RETESTS)
        leads = 1 + LEAD / SHORTEST if self.scenario in ("single", "multi", ALONE) else 1
        whole = leads * self.duration + min(WARM_UP, self.duration / WINDOWS)
        return whole * max(1, len(self.rates)) * len(self.busy)


def run(
    groups: Sequence[Sequence[Spec]], loads: Sequence[Samples], plan: Plan, findings: Findings, *,
    say: Say, exact_model: str | None = None,
) -> None:  # fmt: skip
    """Measure every target on every workload; rows appear in `findings` as they are complete.

    A target that cannot load, fails, or answers otherwise than float32 is left out with its reason.

    Args:
        groups: targets; those of one group take turns.
        loads: the workloads.
        plan: what to measure.
        findings: filled.
        say: told of every step.
        exact_model: the checkpoint, in float weights, whose answers in float32 are the right ones; None: each target's.
    """
    say("answers in float32", 2.0)
    models = {exact_model or spec.model for specs in groups for spec in specs}
    expected = {model: exact_answers(model, loads) for model in models}
    most, measured = _peaks(groups, findings, say), list[tuple[Row, Spec, Samples]]()
    try:
        for specs in groups:
            asked = [spec for spec in specs if any(spec.suits(each, plan.at_once(each)) for each in loads)]
            with ExitStack() as stack:
                sessions = _loaded(asked, loads[0], findings, say, stack)
                for count, (place, samples) in itertools.product(plan.busy, enumerate(loads)):
                    if samples.describe() not in findings.workloads:
                        findings.workloads.append(samples.describe())
                    right = {spec: expected[exact_model or spec.model][place] for spec in sessions}
                    field = Field({spec: session for spec, session in sessions.items()
                                   if spec.suits(samples, plan.at_once(samples))}, findings, say)  # fmt: skip
                    with busy(count):
                        _measure_workload(field, samples, right, plan, count, measured)
        most = most.better(_peaks(groups, findings, say))  # noise only ever lowers one
    finally:  # Rows get their shares also when Ctrl-C ends the run.
        for row, spec, samples in measured:
            row |= _shares(row, spec, samples, most)


def _peaks(groups: Sequence[Sequence[Spec]], findings: Findings, say: Say) -> Roofline:
    """The machine's, where an engine is measured."""
    if all(spec.is_url for specs in groups for spec in specs):
        return Roofline({}, 0.0)
    say("peaks of the machine", roofline.SECONDS)
    return roofline.measure(findings.facts["threads"], artefacts.cache_folder())


def _loaded(
    specs: Sequence[Spec], samples: Samples, findings: Findings, say: Say, stack: ExitStack
) -> dict[Spec, Session]:
    """A process of each that can load, which ends with `stack`."""
    sessions = {}
    for spec in specs:
        say(f"loading {spec.named}", 2.0)
        try:
            convert(spec)
            sessions[spec] = stack.enter_context(Session(spec, samples))
        except (PeerError, RuntimeError) as reason:
            findings.left_out.append(f"{spec.named}: {reason}")
    return sessions


def _measure_workload(
    field: Field, samples: Samples, right: Mapping[Spec, Sequence[answers.Answer]], plan: Plan, busy: int,
    measured: list[tuple[Row, Spec, Samples]],
) -> None:  # fmt: skip
    """Add rows of every target whose answers are right, to the findings and to `measured`."""
    known = _check(field, samples, right, of_all=plan.at_once(samples))
    for load in plan.loads(samples):
        alive, found = {spec: field.sessions[spec] for spec in known}, dict[Spec, Row]()
        try:
            _measure(replace(field, sessions=dict(alive)), samples, load, plan, found)
        finally:
            for spec, row in found.items():
                row |= known[spec] | {"busy": busy, "start_s": alive[spec].start_s, "peak_mb": alive[spec].peak_mb()}
                field.findings.rows.append(row)
                measured.append((row, spec, samples))


def exact_answers(model: str, loads: Sequence[Samples]) -> list[list[answers.Answer]]:
    """float32's answers of the reference to `checked_indices` of each workload."""
    expected = []
    form = "reference" if loads[0].task == IDS else ""
    with Session(Spec(OURS, "float32", model, backend="reference", form=form), loads[0]) as exact:
        for samples in loads:
            exact.prepare(samples)
            expected.append(exact.answers(checked_indices(samples)))
    return expected


def convert(spec: Spec) -> None:
    """Make the files of a form's own format, so that no start includes that.

    Raises:
        RuntimeError: the conversion failed, or what it needs is not installed.
    """
    exports: dict[str, str] = getattr(peers.ENGINES[spec.name][spec.form].make, "exports", {}) if spec.form else {}
    if spec.dtype in exports:
        try:
            artefacts.artefact(Path(spec.model), exports[spec.dtype])
        except ModuleNotFoundError as error:
            raise RuntimeError(f"{error}; pip install 'distilrt[bench-peers]'") from error


def checked_indices(samples: Samples) -> list[int]:
    """Indices of a few samples: the first ones, up to so many tokens."""
    chosen, tokens = list[int](), 0
    for index, length in enumerate(samples.lengths[:CHECKED]):
        tokens += length
        if chosen and tokens > CHECKED_TOKENS:
            break
        chosen.append(index)
    return chosen


def _check(
    field: Field, samples: Samples, right: Mapping[Spec, Sequence[answers.Answer]], *, of_all: bool
) -> dict[Spec, Row]:
    """What is known of the targets whose answers to `checked_indices` of these samples are those of float32.

    With `of_all`, they are among the answers to all samples at once, after which every shape is known to the target.
    """
    known = {}
    for spec, session in field.sessions.items():
        field.say(f"checking {spec.named}", 0.5)
        try:
            facts = session.prepare(samples)
            ours, exact = session.answers(checked_indices(samples), of_all=of_all), right[spec]
            if spec.is_url and wire.FORMATS[spec.wire].softmax:
                ours, exact = ([answers.centred(each) for each in side] for side in (ours, exact))
            found = answers.compare(ours, exact, facts.dtype)
            if not found.ok:
                raise PeerError(f"its answers are off by {found.max_difference:.1e} of the largest; allowed is "
                                f"{found.bound:.0e}: no speed of a wrong engine")  # fmt: skip
        except PeerError as reason:
            field.findings.left_out.append(f"{spec.named} on {samples.name}: {reason}")
        else:
            known[spec] = {"target": spec.label, "form": spec.form, "dtype": facts.dtype, "version": facts.version,
                           "workload": samples.name,
                           "mean_tokens": samples.describe()["mean_tokens"], "padding": round(samples.padding, 4),
                           "max_difference": float(f"{found.max_difference:.2e}"),
                           "mean_difference": float(f"{found.mean_difference:.2e}"),
                           "cosine": round(found.cosine, 6), "agreement": found.agreement}  # fmt: skip
    return known


def _measure(field: Field, samples: Samples, load: Load, plan: Plan, rows: dict[Spec, Row]) -> None:
    last = list[float]()
    at_once = load.scenario == "offline"  # The check was a first query already, and it may take long: one is enough.
    warm_up = Load("offline" if at_once else "multi", min(WARM_UP, load.seconds), 1 if at_once else 2, size=load.size)
    for spec in list(field.sessions)[: 1 if at_once else None]:
        window = field.measure(spec, warm_up, f"{samples.name}: warming up {spec.named}")
        last += [float(window.latencies[-1])] if window else []
    if plan.slo is None:
        # Not that of one far behind, or the rounds of all would be long.
        query_s = min(max(last, default=0.0), 2 * plan.behind * min(last, default=0.0))
        turns.take(field, load, query_s, samples.name, rows, most_windows=plan.most_windows, behind=plan.behind)
        return

    def measured(spec: Spec, wanted: Load) -> Window | None:
        at = f"at {wanted.rate:.3g}/s" if wanted.rate else "at its limit"
        return field.measure(spec, wanted, f"{samples.name}: {spec.named} {at}")

    retest = RETEST * plan.duration
    searches = {spec: peak.search(rows, spec, load, plan.slo, in_flight=spec.in_flight, retest=retest)
                for spec in field.sessions}  # fmt: skip
    peak.take_turns(searches, measured, rows)


def _shares(row: Row, spec: Spec, samples: Samples, most: Roofline) -> Row:
    """A row's shares of the machine's peaks, for an engine on the CPU: of its arithmetic what the answered texts
    needed, and where tokens are few, of its memory read what the weights take."""
    if spec.is_url or "cuda" in row["version"] or not row.get("samples_per_s"):
        return {}
    config, peak = DistilBertConfig.from_pretrained(spec.model), most.flops.get(row["dtype"])
    one_row = spec.name == OURS and spec.form != "all-rows" and samples.task in ("text-classification", IDS)
    needed = roofline.flops(config, samples.lengths, last_layer_rows=1 if one_row else None) / len(samples.lengths)
    found: Row = {}
    if peak:
        found = {"peak_gflops": round(peak / 1e9), "peak_share": round(needed * row["samples_per_s"] / peak, 4)}
    read, tokens = most.read_bandwidth, row["batch"] * max(samples.lengths)
    if read and tokens <= STREAMING_TOKENS and row["scenario"] in ("single", "multi") and row["p50_ms"]:
        weights = roofline.encoder_weights(config) * roofline.BYTES.get(row["dtype"], 2)
        found["read_share"] = round(weights / (1e-3 * row["p50_ms"]) / read, 3)
    return found
