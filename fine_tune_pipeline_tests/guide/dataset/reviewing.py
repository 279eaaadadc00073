"""A room for people: the step's folders, what lies in them, and the step itself."""

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.guide.dataset.review.review import reviewed
from fine_tune_pipeline.guide.dataset.review.round import hold
from fine_tune_pipeline.guide.dataset.review.sample import choose
from fine_tune_pipeline.spec.dataset import ReviewSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, example, jsonl


def experts(**more):
    """Nobody but marked rows and a fifth at random, one person a row, unless a test asks for more."""
    return ReviewSpec(**{"policy": "experts", "share": 0.2, "per_class": 0, "double_share": 0, **more})


def rows(count=10):
    return [example(f"r{number}", f"prompt {number}") for number in range(count)]


class Room:
    def __init__(self, folder, examples, spec=None, task=FRUIT, queue=None):
        self.root, self.spec, self.task, self.queue, self.runs = folder, spec or experts(), task, queue, 0
        self.upstream(examples)

    def upstream(self, examples, fingerprint="abc"):
        """The step before was built (again), with these examples."""
        self.examples = examples
        self.reviews = ReviewFolder.at(self.root / "reviews", use_case="fruit", kind="examples", fingerprint=fingerprint)

    def run(self):
        self.runs += 1
        scrubbed, self.out = self.root / f"scrubbed{self.runs}", self.root / f"out{self.runs}"
        scrubbed.mkdir()
        self.out.mkdir()
        write_examples(scrubbed / "examples.jsonl", self.examples)
        write_rows(scrubbed / "steps.jsonl", [])
        sample = choose(self.examples, self.spec, task=self.task, seed=0)
        self.round = hold(self.examples, sample, spec=self.spec, task=self.task, reviews=self.reviews, use_case="fruit", queue=self.queue)
        self.built = reviewed(scrubbed, self.out, spec=self.spec, sample=sample, done=self.round, reviews=self.reviews, seed=0)
        return self.built

    @property
    def handout(self):
        return read_rows(self.reviews.folder / "handout.jsonl")

    @property
    def handed_out(self):
        return [row["id"] for row in self.handout]

    @property
    def check(self):
        return next(check for check in self.built.checks if check.name == "reviewed")

    @property
    def kept(self):
        return {row.id: row for row in read_examples(self.out / "examples.jsonl")}

    @property
    def refused(self):
        return read_rows(self.out / "refused_verdicts.jsonl")

    def answer(self, verdicts):
        """Hand in as `verdicts.jsonl`."""
        self.reviews.folder.mkdir(parents=True, exist_ok=True)
        jsonl(self.reviews.verdict_file, verdicts)

    def put(self, name):
        """Where to write a file that is handed in."""
        self.reviews.handed_in.mkdir(parents=True, exist_ok=True)
        return self.reviews.handed_in / name
