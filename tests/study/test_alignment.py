"""Pairs and accuracies: by hand, by their identities, and under everything that goes wrong in a
study.
"""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowportrait import cli
from flowportrait.errors import DataError
from flowportrait.records import ASPECTS, Pair, Ranking, Rating, Score, Verdict, write_jsonl
from flowportrait.study.alignment import align
from flowportrait.study.alignment_tables import table_rows
from flowportrait.study.findings import find
from flowportrait.study.results import ClipSource, StudyData, StudyFacts, export, load, pair_records
from flowportrait.study.systems import Clips, System, from_scores, from_verdicts

VERSIONS = ["truth", "a", "b", "c"]


def make(
    rankings: list[dict[str, str]],
    versions=None,
    scores=None,
    raters=("r0", "r1", "r2"),
    truth="truth",
):
    """A study of one ranking text for each rater and sample; `scores` (rater, sample, version) ->
    three numbers.
    """
    versions = list(versions or VERSIONS)
    samples = [f"s{k}" for k in range(len(rankings))]
    clips = [
        ClipSource(sample=s, version=v, source=f"/x/{v}/{s}.mp4", digests=[f"{v}-{s}"])
        for s in samples
        for v in versions
    ]
    facts = StudyFacts(
        versions=versions,
        truth=truth if truth in versions else None,
        raters=list(raters),
        raters_per_sample=len(raters),
        samples=samples,
        clips=clips,
    )
    said = [
        Ranking.parse(text, rater, sample)
        for sample, texts in zip(samples, rankings, strict=True)
        for rater, text in texts.items()
    ]
    ratings = [
        Rating(rater=r, sample=s, version=v, aspect=aspect, score=value)
        for (r, s, v), values in (scores or {}).items()
        for aspect, value in zip(ASPECTS, values, strict=True)
    ]
    return StudyData(facts, ratings, said)


def same(text: str) -> dict[str, str]:
    return {rater: text for rater in ("r0", "r1", "r2")}


def score(version, sample, value=math.nan, scorer="judge", parts=(), reason="", repeat=0):
    if parts:
        value = sum(parts) / len(parts)
    return Score(
        clip=f"{version}/{sample}.mp4",
        scorer=scorer,
        value=value,
        reason=reason,
        sha256=f"{version}-{sample}",
        parts=dict(zip(ASPECTS, map(float, parts), strict=False)),
        repeat=repeat,
    )


def aligned(data, scores, better="higher", needs_truth=False, **options):
    systems = from_scores(
        scores, data, Clips(data), {s.scorer: (better, needs_truth) for s in scores}
    )
    return align(data, systems, draws=200, **options)


def accuracy(data, scores, scope="all pairs", **options):
    return next(r.accuracy for r in aligned(data, scores, **options).rows if r.scope == scope)


# ------------------------------------------------------------------------------------------------
# rankings


def test_a_ranking_as_appendix_a_writes_it():
    ranking = Ranking.parse("C > A ≥ B = D", "r", "s")
    assert ranking.groups == [["C"], ["A"], ["B", "D"]] and ranking.between == [">", ">="]
    assert ranking.text == "C > A >= B = D"
    assert [ranking.relation(*pair) for pair in ("CA", "CD", "AB", "BA", "BD", "DC")] == [
        ">",
        ">",
        ">=",
        "<=",
        "=",
        "<",
    ]
    assert ranking.relation("A", "E") is None


@pytest.mark.parametrize("text", ["", "A >", "> A", "A > A", "A == B", "A > > B"])
def test_no_ranking(text):
    with pytest.raises(DataError):
        Ranking.parse(text, "r", "s")


def test_pairs_are_kept_where_all_agree_and_dropped_by_reason():
    data = make(
        [
            {"r0": "truth > a > b > c", "r1": "truth > a > c = b", "r2": "truth > b > a > c"},
            {"r0": "truth > a", "r1": "truth > a > b > c", "r2": "truth >= a > b > c"},
            {"r0": "truth > a > b > c", "r1": "truth > a > b > c"},
        ]
    )
    found = {(p.sample, p.a, p.b): p.winner or p.dropped for p in pair_records(data)}
    assert [found["s0", *pair] for pair in combinations(VERSIONS, 2)] == [
        "a",
        "a",
        "a",
        "disagreement",
        "a",
        "tie",
    ]
    assert [found["s1", *pair] for pair in combinations(VERSIONS, 2)] == ["tie"] + ["missing"] * 5
    assert [found["s2", *pair] for pair in combinations(VERSIONS, 2)] == ["missing"] * 6
    record = next(p for p in pair_records(data) if (p.sample, p.a, p.b) == ("s0", "a", "b"))
    assert record == Pair(
        sample="s0", a="a", b="b", dropped="disagreement", votes={"a": 2, "b": 1, "tie": 0}
    )


# ----------------------------------------------------------------------------------------------
# accuracies


def test_accuracy_by_hand():
    data = make([same("truth > a > b > c")])
    # truth 5, a 3, b 3, c 4: right 3 (truth over all), tie a-b, wrong a-c and b-c.
    found = accuracy(data, [score(v, "s0", x) for v, x in zip(VERSIONS, (5, 3, 3, 4), strict=True)])
    assert (found.pairs, found.missing, found.right, found.ties) == (6, 0, 3, 1)
    assert found.acc.value == 3.5 / 6 and found.acc_nt.value == 3 / 5 and found.cov.value == 5 / 6


def test_lower_is_better_turns_everything_around():
    data = make([same("truth > a > b > c")])
    scores = [score(v, "s0", x) for v, x in zip(VERSIONS, (1, 2, 3, 4), strict=True)]
    assert (
        accuracy(data, scores, better="lower").acc.value == 1
        and accuracy(data, scores).acc.value == 0
    )


def test_equal_sums_tie_though_float_means_differ():
    thirds = {3: (1, 1, 1), 4: (1, 1, 2), 5: (1, 2, 2)}
    one, other = (3, 3, 5), (3, 4, 4)  # sums of the aspects in three askings of each clip
    assert sum(x / 3 for x in one) / 3 != sum(x / 3 for x in other) / 3
    data = make([same("x > y")], versions=["x", "y"])
    scores = [
        score(v, "s0", parts=thirds[x], repeat=k)
        for v, xs in (("x", one), ("y", other))
        for k, x in enumerate(xs)
    ]
    assert accuracy(data, scores).ties == 1
    # Three askings of one clip, two of the other, the same mean.
    scores = [score("x", "s0", parts=(4, 4, 5), repeat=k) for k in range(3)]
    scores += [score("y", "s0", parts=(5, 4, 4), repeat=k) for k in range(2)]
    assert accuracy(data, scores).ties == 1


def test_missing_answers_are_counted_and_never_low():
    data = make([same("truth > a > b > c"), same("c > b > a > truth")])
    scores = [
        score(v, s, x)
        for s, order in (("s0", VERSIONS), ("s1", VERSIONS[::-1]))
        for v, x in zip(order, (4, 3, 2, 1), strict=True)
    ]
    assert accuracy(data, scores).acc.value == 1
    scores[0] = score("truth", "s0", reason="the judge refused")
    found = accuracy(data, scores)
    assert found.missing == 3 and found.answered == 9 and found.acc.value == 1
    assert accuracy(data, scores[4:]).missing == 6


def test_metrics_that_need_the_truth_skip_its_pairs_and_report_both():
    data = make([same("truth > a > b > c")])
    scores = [score(v, "s0", x) for v, x in zip(VERSIONS, (1, 0.2, 0.3, 0.4), strict=True)]
    found = aligned(data, scores, needs_truth=True)
    rows = {row.scope: row for row in found.rows}
    assert rows["without the truth"].default and rows["without the truth"].accuracy.acc.value == 0
    assert not rows["all pairs"].default and rows["all pairs"].accuracy.acc.value == 0.5
    assert [row[1] for row in table_rows(found) if row[0] == "judge"] == [
        "without the truth",
        "all pairs",
    ]


def test_error_rates_by_pair_of_versions():
    data = make([same("truth > a > b > c"), same("truth > a > b > c")])
    scores = [
        score(v, s, x)
        for s, xs in (("s0", (5, 3, 4, 1)), ("s1", (5, 3, 3, 1)))
        for v, x in zip(VERSIONS, xs, strict=True)
    ]
    errors = {(e.a, e.b): e for e in aligned(data, scores).rows[0].by_pair}
    assert (errors["a", "b"].errors, errors["a", "b"].ties, errors["a", "b"].rate.value) == (
        1,
        1,
        0.75,
    )
    assert errors["truth", "a"].rate.value == 0 and sum(e.pairs for e in errors.values()) == 12


def test_aspects_are_compared_by_aspect():
    scores = {
        (r, "s0", v): x for r in ("r0", "r1", "r2") for v, x in (("x", (5, 1, 3)), ("y", (1, 5, 3)))
    }
    data = make([same("x > y")], versions=["x", "y"], scores=scores)
    row = aligned(
        data, [score("x", "s0", parts=(5, 1, 2)), score("y", "s0", parts=(4, 2, 1))]
    ).rows[0]
    assert {name: (a.pairs, a.right) for name, a in row.aspects.items()} == {
        "lip_sync": (1, 1),
        "expressiveness": (1, 1),
        "motion": (0, 0),
    }
    assert math.isnan(row.aspects["motion"].acc.value)
    # By scores the two versions tie for every rater: no pair.
    assert (
        aligned(data, [score("x", "s0", 1.0), score("y", "s0", 2.0)], preference="scores").dropped[
            "tie"
        ]
        == 1
    )


def test_verdicts_positions_and_swaps():
    data = make([same("truth > a > b > c")])

    def verdict(a, b, winner, orders=None, reason=""):
        return Verdict(
            a=f"{a}/s0.mp4",
            b=f"{b}/s0.mp4",
            system="ma-comp",
            winner=winner,
            reason=reason,
            orders=orders or {},
            sha256=[f"{a}-s0", f"{b}-s0"],
        )

    said = [
        verdict("truth", "a", "a", {"ab": "a", "ba": "a"}),
        verdict("b", "truth", "b", {"ab": "b"}),  # the truth wins, though given second
        verdict("a", "b", "tie", {"ab": "a", "ba": "b"}),  # the first shown wins both times
        verdict("a", "c", None, reason="refused"),
    ]
    found = align(data, from_verdicts(said, data, Clips(data)), draws=200)
    row = found.rows[0]
    assert (row.accuracy.right, row.accuracy.ties, row.accuracy.missing) == (2, 1, 3)
    assert row.position.shown == 5 and row.position.first_wins.value == 3 / 5
    assert row.position.both_orders == 2 and row.position.consistent.value == 1 / 2


outcomes = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from([1.0, -1.0]),
        st.sampled_from([1.0, -1.0, 0.0, math.nan]),
    ),
    min_size=1,
)


@settings(max_examples=100, deadline=None)
@given(outcomes)
def test_acc_is_made_of_cov_and_acc_nt(cases):
    from flowportrait.study.alignment import _Counts, accuracies

    human, said = np.zeros((31, len(cases))), np.full((31, len(cases)), math.nan)
    for column, (sample, winner, answer) in enumerate(cases):
        human[sample, column], said[sample, column] = winner, answer
    (found,) = accuracies([_Counts(said, human)], 20, 0)
    answered = [(w, x) for _, w, x in cases if math.isfinite(x)]
    assert found.pairs == len(cases) and found.answered == len(answered)
    if not answered:
        assert math.isnan(found.acc.value)
        return
    assert found.acc.value == pytest.approx(
        sum(1 if w == x else 0.5 * (x == 0) for w, x in answered) / len(answered)
    )
    nt = 0.0 if math.isnan(found.acc_nt.value) else found.acc_nt.value
    assert found.acc.value == pytest.approx(found.cov.value * nt + (1 - found.cov.value) / 2)


orders = st.lists(
    st.lists(st.permutations(VERSIONS), min_size=3, max_size=3), min_size=1, max_size=6
)


@settings(max_examples=40, deadline=None)
@given(
    orders,
    st.permutations(VERSIONS),
    st.permutations(["r0", "r1", "r2"]),
    st.randoms(use_true_random=False),
)
def test_names_and_order_of_versions_and_raters_do_not_matter(ranked, versions, raters, random):
    texts = [{f"r{k}": " > ".join(order) for k, order in enumerate(sample)} for sample in ranked]
    scores = [score(v, f"s{k}", random.randint(1, 5)) for k in range(len(texts)) for v in VERSIONS]
    one, other = make(texts), make(texts, versions=versions, raters=raters)
    a, b = aligned(one, scores), aligned(other, random.sample(scores, len(scores)))
    assert a.kept == b.kept and a.dropped == b.dropped
    for x, y in zip(a.rows, b.rows, strict=True):
        # As text, since an accuracy of no pairs is nan and equals nothing.
        assert x.scope == y.scope and x.accuracy.model_dump_json() == y.accuracy.model_dump_json()
    ceilings = [{c.rater: c.accuracy.model_dump_json() for c in found.ceiling} for found in (a, b)]
    assert ceilings[0] == ceilings[1]


# ------------------------------------------------------------------------------------------------
# faults


def _judged(data):
    return [
        score(v, s, float(k + j))
        for j, s in enumerate(data.facts.samples)
        for k, v in enumerate(data.versions)
    ]


def test_ties_everywhere():
    data = make([same("truth = a = b = c")] * 4)
    found = aligned(data, _judged(data))
    assert found.kept == 0 and found.dropped == {"tie": 24, "disagreement": 0, "missing": 0}
    assert math.isnan(found.rows[0].accuracy.acc.value) and table_rows(found)[0][2] == "—"
    about = find(data, draws=200)
    assert math.isnan(about.kendall_w.value) and any(
        "every pair is a tie" in note for note in about.notes
    )


def test_one_rater_only():
    data = make([{"r0": "truth > a > b > c"}] * 3, raters=["r0"])
    found = aligned(data, _judged(data))
    assert found.kept == 18 and found.ceiling == [] and found.rows[0].accuracy.acc.value == 0
    about = find(data, draws=200)
    assert math.isnan(about.aspects[0].alpha_ordinal.value) and any(
        "one rater" in note for note in about.notes
    )


def test_unfinished_raters_make_pairs_missing():
    data = make([same("truth > a > b > c"), {"r0": "truth > a > b > c"}, {}])
    assert aligned(data, _judged(data)).dropped == {"tie": 0, "disagreement": 0, "missing": 12}
    assert find(data, draws=200).sets == 1


def test_no_answers_at_all():
    data = make([{}, {}])
    found = aligned(data, _judged(data))
    assert found.kept == 0 and found.dropped["missing"] == 12
    assert find(data, draws=200).per_rater[0].answered == 0


@pytest.fixture
def files(tmp_path):
    data = make([same("truth > a > b > c")] * 2)
    export(data, tmp_path / "study")
    write_jsonl(tmp_path / "scores.jsonl", _judged(data))
    return tmp_path


def test_two_different_scores_of_one_clip_are_refused(files, capsys):
    extra = score("a", "s0", 77.0)
    command = [
        "study",
        "align",
        str(files / "study"),
        str(files / "scores.jsonl"),
        "--higher",
        "judge",
        "--draws",
        "100",
    ]
    assert (
        cli.run([*command, str(files / "scores.jsonl")]) == 0
    )  # the same file twice says the same
    renamed = score("a", "s0", _judged(load(files / "study"))[1].value).model_copy(
        update={"clip": "elsewhere.mp4"}
    )
    write_jsonl(files / "more.jsonl", [renamed])
    assert cli.run([*command, str(files / "more.jsonl")]) == 0
    write_jsonl(files / "more.jsonl", [extra])
    assert cli.run([*command, str(files / "more.jsonl")]) == 2
    assert "two different scores of a/s0.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scores.jsonl"], "state its direction with --higher judge or --lower judge"),
        (["scores.jsonl", "--higher", "judge", "--lower", "judge"], "give one"),
        ([], "none of 0 scores and 0 verdicts"),
        (["foreign.jsonl", "--higher", "judge"], "none of 1 scores"),
        (["torn.jsonl", "--higher", "judge"], "torn.jsonl:8: not a valid Score"),
        (["study/ratings.jsonl"], "neither scores nor verdicts"),
        (["absent.jsonl"], "cannot be read"),
    ],
)
def test_wrong_scores_are_one_line(files, arguments, words, capsys):
    write_jsonl(files / "foreign.jsonl", [score("zoo", "s9", 1.0)])
    text = (files / "scores.jsonl").read_text()
    (files / "torn.jsonl").write_text(text[:-40])
    export(make([same("truth > a")]), files / "other")
    write_jsonl(
        files / "study" / "ratings.jsonl",
        [Rating(rater="r0", sample="s0", version="a", aspect="motion", score=3)],
    )
    paths = [str(files / a) if a.endswith("jsonl") else a for a in arguments]
    assert cli.run(["study", "align", str(files / "study"), *paths]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and words in errors[0]


@pytest.mark.parametrize(
    ("file", "row", "words"),
    [
        (
            "ratings.jsonl",
            {"rater": "r0", "sample": "s0", "version": "a", "aspect": "motion", "score": 6},
            "score",
        ),
        (
            "ratings.jsonl",
            {"rater": "r0", "sample": "s0", "version": "z", "aspect": "motion", "score": 5},
            "no version",
        ),
        (
            "ratings.jsonl",
            {"rater": "x", "sample": "s0", "version": "a", "aspect": "motion", "score": 5},
            "not in this",
        ),
        (
            "ratings.jsonl",
            {"rater": "r0", "sample": "s0", "version": "a", "aspect": "hair", "score": 5},
            "aspect",
        ),
        ("rankings.jsonl", {"rater": "r0", "sample": "s0", "groups": [["a"]]}, "answered twice"),
        ("rankings.jsonl", {"rater": "r0", "sample": "s7", "groups": [["a"]]}, "not in this study"),
        ("rankings.jsonl", {"rater": "r0", "sample": "s0", "groups": [["a"], ["a"]]}, "twice"),
        (
            "rankings.jsonl",
            {"rater": "r0", "sample": "s0", "groups": [["a"], []]},
            "empty group or name",
        ),
    ],
)
def test_wrong_rows_of_an_export_are_named(files, file, row, words):
    with (files / "study" / file).open("a") as out:
        out.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=words):
        load(files / "study")


def test_a_truncated_export_is_named(files):
    path = files / "study" / "rankings.jsonl"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match=r"rankings\.jsonl:6: not a valid Ranking"):
        load(files / "study")


def test_clips_are_found_by_digest_and_by_name():
    data = make([same("truth > a > b > c")])
    clips = Clips(data)
    assert clips.find("anywhere.mp4", "a-s0") == (0, 1)
    assert clips.find("runs/x/a/s0.mp4") == (0, 1) == clips.find("/x/a/s0.mp4")
    assert clips.find("s0.mp4") is None and clips.find("a/s0.mp4", "of another file") is None
    assert list(clips.unknown) == ["s0.mp4", "a/s0.mp4"]


def test_the_same_file_as_two_versions_is_told_apart_by_name():
    data = make([same("a > b")], versions=["a", "b"])
    twin = [c.model_copy(update={"digests": ["same"]}) for c in data.facts.clips]
    clips = Clips(StudyData(data.facts.model_copy(update={"clips": twin}), [], data.rankings))
    assert clips.find("b/s0.mp4", "same") == (0, 1) and clips.find("other.mp4", "same") is None


def test_nine_hundred_and_forty_samples_take_seconds():
    import time

    rng = np.random.default_rng(0)
    texts = [{f"r{k}": " > ".join(rng.permutation(VERSIONS)) for k in range(3)} for _ in range(940)]
    data = make(texts)
    systems = [System(f"j{k}", "scores", rng.choice([-1.0, 0, 1], (940, 6))) for k in range(6)]
    start = time.process_time()
    found = align(data, systems, draws=10_000)
    assert time.process_time() - start < 20 and found.possible == 5640
