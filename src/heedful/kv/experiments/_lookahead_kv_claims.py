"""What was claimed of LookaheadKV before it was measured."""

from __future__ import annotations

from typing import Any

from heedful.lab import Claim

FAR = ("early", "crowded", "twohop", "copy")
"""Tasks whose answer decides what matters: the end of the prompt does not tell, or not all of it."""
NEAR = ("niah1", "mk1")
"""Tasks whose question ends the prompt."""
LEFT_OUT = "marked"
"""A task that training has not seen."""
KNOWN_BY = {"early": "token_accuracy", "copy": "token_accuracy"}
DECIDED_ON = {"crowded": "agreement", "copy": "token_accuracy"}
"""What the model's knowledge of a task, and claims about it, are decided on, where that is not ``accuracy``."""
MAIN_SHARE = 0.1
WHOLE = "tokens=32"
_ITEMS: dict[str, Any] = {"unit": ("item",), "fixed": "one checkpoint"}


def _against(
    control: str, task: str, share: float = MAIN_SHARE, method: str = "lookaheadkv", tuned: bool = False
) -> dict[str, Any]:
    """The fields of a claim about a method and its rival on a task."""
    return {
        "treatment": {"method": method},
        "control": {"method": control},
        "where": {"part": "quality", "split": "test", "task": task, "share": share, "tuned": tuned},
    }


def _ablation(control: str, variant: str = WHOLE) -> dict[str, Any]:
    return {
        "treatment": {"variant": variant},
        "control": {"variant": control},
        "where": {"part": "ablation", "method": "lookaheadkv", "share": MAIN_SHARE, "trained": 0},
        "unit": ("task", "item"),
        "fixed": "one checkpoint, one training of each, three tasks",
    }


CLAIMS = (
    *(
        Claim(
            f"knows-{task}",
            f"With the full cache the model answers at least 95 % of {task}, so that losses are the policy's.",
            KNOWN_BY.get(task, "accuracy"),
            rule="noninferior",
            control=0.95,
            treatment={"method": "full"},
            where={"part": "quality", "split": "test", "task": task},
            **_ITEMS,
        )
        for task in ("early", "twohop", "copy", *NEAR, LEFT_OUT)
    ),
    Claim(
        "attention-matters",
        "At 10 % what the true answer attends to matters: the oracle answers more of early than a random subset.",
        "accuracy",
        rule="superior",
        d=0.2,
        **_against("random", "early", method="oracle"),
        **_ITEMS,
    ),
    *(
        Claim(
            f"beats-snapkv-{task}",
            f"At 10 % it answers more of {task} than SnapKV, whose window does not see {what}.",
            DECIDED_ON.get(task, "accuracy"),
            rule="superior",
            d=0.05,
            **_against("snapkv", task),
            **_ITEMS,
            published="MT-Bench at 64 entries, Llama-3.1-8B: 7.26 against 6.80" if task == "early" else "",
        )
        for task, what in (
            ("early", "the question"),
            ("crowded", "the question"),
            ("twohop", "the second hop's key"),
            ("copy", "the span"),
        )
    ),
    Claim(
        "beats-snapkv-small",
        "At 5 % it answers more of early than SnapKV, by more than 20 points.",
        "accuracy",
        rule="superior",
        d=0.2,
        **_against("snapkv", "early", share=0.05),
        **_ITEMS,
        published="the gap is largest at small budgets",
    ),
    *(
        Claim(
            f"no-worse-than-laq-{task}",
            f"At 10 % it answers no less of {task} than LAQ, which writes a draft first.",
            DECIDED_ON.get(task, "accuracy"),
            rule="noninferior",
            d=0.05,
            **_against("laq", task),
            **_ITEMS,
            published="MT-Bench at 64 entries, Llama-3.1-8B: 7.26 against 7.10" if task == "early" else "",
        )
        for task in FAR
    ),
    *(
        Claim(
            f"beats-{rival}",
            f"At 10 % it answers more of early than {title}.",
            "accuracy",
            rule="superior",
            d=0.05,
            **_against(rival, "early"),
            **_ITEMS,
            published=published,
        )
        for rival, title, published in (
            ("speckv", "SpecKV, whose small model does not know the task", ""),
            ("pyramidkv", "PyramidKV", "MT-Bench at 64 entries, Llama-3.1-8B: 7.26 against 6.85"),
            ("tova", "TOVA", ""),
            ("h2o", "H2O", ""),
            ("streaming-llm", "StreamingLLM", "MT-Bench at 64 entries, Llama-3.1-8B: 7.26 against 6.17"),
        )
    ),
    Claim(
        "faithful",
        "At 10 % its distributions on crowded are closer to the full cache's than SnapKV's.",
        "kl",
        rule="superior",
        d=0.05,
        **_against("snapkv", "crowded"),
        **_ITEMS,
    ),
    Claim(
        "finds-the-truth",
        "At 10 % it keeps more of what the true answer attends to than SnapKV, on crowded.",
        "recall",
        rule="superior",
        d=0.05,
        **_against("snapkv", "crowded"),
        **_ITEMS,
    ),
    *(
        Claim(
            f"tuned-beats-snapkv-{task}",
            f"Tuned with equal effort, at 10 % it answers more of {task} than SnapKV.",
            DECIDED_ON.get(task, "accuracy"),
            rule="superior",
            d=0.05,
            **_against("snapkv", task, tuned=True),
            **_ITEMS,
        )
        for task in FAR
    ),
    *(
        Claim(
            f"tuned-no-worse-than-laq-{task}",
            f"Tuned with equal effort, at 10 % it answers no less of {task} than LAQ.",
            DECIDED_ON.get(task, "accuracy"),
            rule="noninferior",
            d=0.05,
            **_against("laq", task, tuned=True),
            **_ITEMS,
        )
        for task in FAR
    ),
    Claim(
        "over-trainings",
        "Trained again from other seeds, for a short time, it still keeps more of crowded's truth at 10 % than SnapKV.",
        "recall",
        rule="superior",
        d=0.02,
        unit=("trained",),
        fixed="one checkpoint, the items",
        treatment={"method": "lookaheadkv"},
        control={"method": "snapkv"},
        where={"part": "ablation", "variant": WHOLE, "task": "crowded", "share": MAIN_SHARE},
    ),
    Claim(
        "lora-needed",
        "Tokens without a LoRA keep less of the truth at 10 %.",
        "recall",
        rule="superior",
        d=0.02,
        **_ablation("without LoRA"),
        published="both parts needed; tokens alone notably lower",
    ),
    Claim(
        "tokens-needed",
        "A LoRA on the prompt's own last tokens keeps less of the truth at 10 %.",
        "recall",
        rule="superior",
        d=0.02,
        **_ablation("without tokens"),
        published="both parts needed",
    ),
    Claim(
        "saturates",
        "Half of the 32 tokens keep as much of the truth at 10 %.",
        "recall",
        rule="tie",
        d=0.02,
        **_ablation("tokens=16"),
        published="saturates at 32 tokens",
    ),
    Claim(
        "cheaper-than-laq",
        "At 2048 tokens it adds less to the time of reading a prompt than LAQ.",
        "overhead",
        rule="superior",
        d=0.0,
        unit=("seed",),
        fixed="one geometry, one thread",
        treatment={"method": "lookaheadkv"},
        control={"method": "laq"},
        where={"part": "overhead", "context": 2048},
        published="2.16 % against 31.32 % at 32k",
    ),
    Claim(
        "cheap",
        "At 512 tokens, of which the 32 lookahead tokens are a sixteenth, it adds less than 15 %.",
        "overhead",
        rule="superior",
        control=0.15,
        unit=("seed",),
        fixed="one geometry, one thread",
        treatment={"method": "lookaheadkv"},
        where={"part": "overhead", "context": 512},
        published="2.16 % at 32k",
    ),
    Claim(
        "cheaper-with-length",
        "At 2048 tokens it adds less than at 512.",
        "overhead",
        rule="superior",
        d=0.0,
        unit=("seed",),
        fixed="one geometry, one thread",
        treatment={"context": 2048},
        control={"context": 512},
        where={"part": "overhead", "method": "lookaheadkv"},
    ),
    *(
        Claim(
            f"question-last-{task}",
            f"Where the question ends the prompt ({task}), SnapKV sees it: a tie at 10 %.",
            "accuracy",
            rule="tie",
            d=0.05,
            boundary=True,
            **_against("snapkv", task),
            **_ITEMS,
        )
        for task in NEAR
    ),
    Claim(
        "large-budget",
        "At half of the prompt there is little to win: within five points of SnapKV on early.",
        "accuracy",
        rule="tie",
        d=0.05,
        boundary=True,
        **_against("snapkv", "early", share=0.5),
        **_ITEMS,
    ),
    Claim(
        "left-out",
        "On a task that training has not seen, whose question ends the prompt, SnapKV is no worse at 10 %.",
        "accuracy",
        rule="noninferior",
        d=0.02,
        boundary=True,
        **_against("lookaheadkv", LEFT_OUT, method="snapkv"),
        **_ITEMS,
    ),
    Claim(
        "bound",
        "At 10 % it does not answer more of copy than the oracle.",
        "token_accuracy",
        rule="noninferior",
        d=0.02,
        boundary=True,
        **_against("lookaheadkv", "copy", method="oracle"),
        **_ITEMS,
    ),
    Claim(
        "whole-budget",
        "With a budget of the whole prompt nothing changes.",
        "kl",
        rule="tie",
        d=1e-6,
        boundary=True,
        treatment={"method": "lookaheadkv", "share": 1.0},
        control={"method": "full"},
        where={"part": "quality", "split": "test", "task": "copy"},
        unit=("item",),
        fixed="one checkpoint",
    ),
    Claim(
        "sampled",
        "Sampled answers are foreseen less well than greedy ones.",
        "recall",
        boundary=True,
        reason="the tasks' answers are determined, so that a model which knows them samples what it would say greedily",
    ),
    Claim(
        "longer",
        "Trained at one length, it still works at twice that length.",
        "accuracy",
        reason="the model answers early up to 256 tokens only",
        published="trained at 16k, still good at 32k",
    ),
)
