"""What to write instead of a metric that is known elsewhere under another name, or that says too little to be a goal."""

import difflib
from collections.abc import Sequence

LOSS = "a loss says how surprised a model is by an answer, not whether its own answer is right; {best} counts answers that are right"
JUDGED = "a judge alone cannot carry a goal, since it errs in ways that nobody has measured; take {best}, and ask people (evaluation.human)"
OVERLAP = "{near} stands in for it without weights from a hub"

ELSEWHERE = {
    "loss": LOSS,
    "validation_loss": LOSS,
    "general_loss": LOSS,
    "perplexity": LOSS,
    "judge": JUDGED,
    "judge_score": JUDGED,
    "judge_win_rate": JUDGED,
    "llm_rubric": JUDGED,
    "human_win_rate": "write evaluation.human: {{required: true, win_rate_at_least: …}}, beside a criterion on {best}",
    "latency": "write limits: {{p95_latency_seconds: …}}",
    "cost": "write limits: {{cost_per_1000: …}}",
    "memory": "write limits: {{memory_gib: …}}",
    "f1": "{best} is the usual choice here; macro_f1 for labels, field_f1 for objects, token_f1 for texts",
    "bleu": OVERLAP,
    "bertscore": OVERLAP,
    "bleurt": OVERLAP,
    "comet": OVERLAP,
}
"""Name -> what to do; `{best}` is the task's most telling metric, `{near}` what compares texts."""


def proposal_for(name: str, allowed: Sequence[str]) -> str:
    """The rest of a sentence that begins with the list of metrics; empty if the name is like none."""
    if name in ELSEWHERE:
        near = next((metric for metric in ("similarity", "field_f1", "macro_f1") if metric in allowed), allowed[0])
        return "; " + ELSEWHERE[name].format(best=allowed[0], near=near)
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {close[0]}?" if close else ""
