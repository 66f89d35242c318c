"""What the config reference says of keys whose class does not say it yet.

A docstring line under the field goes before anything here, so an entry has no effect once its field has one.
"""

from __future__ import annotations

ANYWHERE = {
    "model": "The pretrained model underneath.",
    "task": "What is learned and scored, and its data.",
    "switch": "How the model is made switchable.",
    "settings": "The settings of this one.",
    "adapters": "The LoRA adapters.",
    "objective": "Which bitmaps run at a step, and what they learn.",
    "training": "Steps, batches and the optimizer.",
    "evaluation": "What is scored after training.",
    "keep_best": "Whether the best checkpoint is kept beside the last; null keeps the last alone.",
    "workers": "How many processes share the work.",
    "tracking": "Where MLflow keeps the record.",
    "checkpoint": "Folder of the checkpoint; `step:NAME` in a pipeline.",
    "limit": "Validation examples that are scored, from the first on; null scores all.",
    "weight": "How the losses of a step's bitmaps add up: `mean` divides by their number, `sum` does not.",
    "bitmaps": "The bitmaps that run.",
    "train_split": "Split to train on, such as `train` or `train[:1000]`.",
    "validation_split": "Split to score on, such as `validation` or `validation[:500]`.",
    "eval_batch_size": "Examples that are scored at once; no score depends on it.",
    "seed": "Seed of all that is drawn.",
    "distillation": "What lower bitmaps learn from higher ones besides the labels; null for the labels alone.",
}
"""By key, where it means the same in every section."""

BY_SECTION = {
    "ModelConfig": {"source": "`tiny` (the shipped model), a hub name, a local folder or a GGUF file."},
    "SpanSettings": {
        "data": "`tiny`, a hub name, or a folder or file in the format of SQuAD v1.1.",
        "max_length": "Tokens of a window: question and a part of the context.",
        "stride": "Tokens by which two windows of one context overlap.",
        "n_best": "How many of the best starts are paired with as many of the best ends.",
        "max_answer_length": "The most tokens of an answer.",
    },
    "CompletionSettings": {
        "data": "`tiny`, a hub name, SQuAD v1.1 in a folder or file, or a folder of generated completions.",
        "validation_data": "What is scored in place of `data`; generated completions need one.",
        "max_new_tokens": "The most tokens of an answer when it is scored.",
    },
    "LanguageModelingSettings": {
        "subset": "Subset of a data set of the hub, such as `wikitext-2-raw-v1`.",
        "validation_data": "What is scored in place of `data`; generated texts need one.",
        "max_length": "Tokens of a window, and of a training block.",
        "stride": "Tokens by which a window moves on; each token is scored once.",
        "prepend_bos": "Put a bos token first, so that the first token of the text is scored too.",
    },
    "ClassificationSettings": {"max_length": "Tokens of a text; a longer one keeps its beginning."},
    "ZeroShotSettings": {"dataset": "Which benchmark.", "split": "Split of the benchmark."},
    "AdaptersConfig": {
        "widths": "Widths that get an adapter; null for those of the objective, `[]` for none.",
        "rank": "Rank of a branch.",
        "alpha": "Scales a branch by alpha / rank.",
        "dropout": "Dropout of a branch's input while it trains.",
        "rank_by_width": "Other ranks for some widths.",
        "alpha_by_width": "Other alphas for some widths.",
        "rslora": "Scale by alpha / sqrt(rank) instead.",
        "init": "How a branch begins: `kaiming`, `gaussian`, `orthogonal`, `loftq`, `pissa` or `olora`.",
    },
    "SwitchSettings": {"include": "Patterns of site names; a site must match one of them."},
    "QuantizerOptions": {"ste_limit": "Where the estimator `masked` stops the gradient."},
    "StaticObjective": {"bitmap": "The one bitmap that is trained; 32 is full precision."},
    "CascadeObjective": {
        "beta": "Weight of the distance to each teacher; 0 leaves the labels alone.",
        "distance": "How outputs are compared: `kl`, or `mse` of centered logits (InstantNet's code).",
        "teachers": "Who teaches a bitmap: every higher one of the step, or the highest alone.",
        "temperature": "Divides both logits before `kl`, which its square multiplies.",
    },
    "SelfDistillationObjective": {
        "beta": "Weight of the distance between outputs, S4's alpha_1.",
        "temperature": "Divides both logits before the KL divergence, which its square multiplies.",
        "ce_weight": "Weight of the labels below the highest bitmap; S4 writes no such term.",
        "feature_weight": "Weight of the distance between hidden states, S4's alpha_2.",
        "features": "Which hidden states: of all blocks, of the last one, or of one drawn per step.",
    },
    "ContrastiveObjective": {
        "beta": "Weight of the KL divergence between outputs; 0 leaves it out.",
        "teachers": "Whose representations draw a bitmap: of every higher one of the step, or of the highest alone.",
        "contrastive_weight": "Weight of InfoNCE beside the labels.",
        "contrastive_temperature": "Divides the cosines of InfoNCE.",
        "contrastive": "What is compared: tokens that carry the answer, or mean states of sequences.",
    },
    "CyclicSweepObjective": {"bitmaps": "The bitmaps that take turns, in this order, one per step."},
    "SandwichObjective": {
        "middle": "How many bitmaps run between the highest and the lowest, drawn anew at each step."
    },
    "RandomObjective": {"count": "How many different bitmaps run at a step."},
    "RandomPrecisionTraining": {
        "attack": "How embeddings are attacked at the bitmap that is updated; null for clean ones."
    },
    "LayerwiseObjective": {
        "widths": "The widths that each site draws from.",
        "count": "How many bitmaps are drawn at a step.",
        "always": "Bitmaps that run at every step beside the drawn ones.",
    },
    "CurriculumObjective": {
        "bitmaps": "The bitmaps, in the order in which they join.",
        "joins": "The share of the steps at which each joins, the first at 0; null spaces them evenly.",
    },
    "CptObjective": {
        "lowest": "The width at which each cycle begins.",
        "highest": "The width at which each cycle ends.",
        "cycles": "How many cycles the steps are divided into.",
        "official_remainder": "Spend what whole cycles leave over at the lowest width, as the official code does.",
        "shape": "How the width rises within a cycle.",
        "form": "`repeated` rises in every cycle; `triangular` falls in even cycles and rises in odd ones.",
        "flip": "How the fall of a triangular schedule mirrors the rise.",
    },
    "WorkersConfig": {
        "count": "How many workers or actors.",
        "gpu": "Whether each of them has a GPU.",
    },
    "EvaluationConfig": {"bitmaps": "What is scored; null scores every trained width, and 32."},
    "TrackingConfig": {
        "uri": "A tracking server; null keeps SQLite in `root`.",
        "root": "Folder of the record without a server.",
        "experiment": "The experiment's name in MLflow.",
    },
    "EvaluateConfig": {"bitmaps": "What is scored; null scores every width that has an adapter, and 32."},
    "SensitivityConfig": {
        "reference": "The width of all other sites.",
        "lowered": "The widths to which each unit alone goes down.",
        "unit": "What is lowered alone: a site, or all sites of a block.",
        "metric": "What the ranking goes by; null for the task's own.",
    },
    "SearchConfig": {
        "space": "Which widths a site may get.",
        "objectives": "Such as `max:f1` and `min:weight_bytes`; null for the task's metric and bytes.",
        "strategy": "How bitmaps are chosen.",
        "strategy_options": "Options of the strategy.",
        "max_evaluations": "Ends after so many different bitmaps; null leaves the end to the strategy.",
        "limits": "Cost -> greatest allowed value; no evaluated bitmap exceeds it.",
    },
    "SpaceConfig": {
        "activation": "Widths of inputs; `same` follows the weight.",
        "kv": "Widths of the cache; `same` follows the weight, null leaves it as it is.",
        "group": "`block` gives all sites of a block one choice.",
    },
    "GbdaSettings": {
        "iterations": "Steps of Adam.",
        "learning_rate": "Of Adam.",
        "temperature": "Of the Gumbel-softmax.",
        "max_length": "Tokens of a text; a longer one keeps its beginning.",
    },
    "TextFoolerSettings": {
        "max_length": "Tokens of a text; a longer one keeps its beginning.",
        "most_synonyms": "The most synonyms that are tried for a word.",
        "least_cosine": "How near a synonym's embedding must be.",
        "metric": "How similarity is measured.",
        "least_similarity": "How similar the window must stay; thresholds of other encoders do not carry over.",
        "window": "Words around a swap that are compared.",
    },
    "BertAttackSettings": {
        "max_length": "Tokens of a text; a longer one keeps its beginning.",
        "metric": "How similarity is measured.",
        "least_similarity": "How similar the text must stay; thresholds of other encoders do not carry over.",
    },
    "ArcaSettings": {"prefix": "Text that every prompt begins with."},
    "PtqConfig": {
        "methods": "The methods that are compared.",
        "calibration": "The examples that GPTQ and static ranges see.",
    },
    "MethodConfig": {"gptq": "Settings of GPTQ."},
    "CalibrationConfig": {
        "examples": "How many examples.",
        "batch_size": "Examples at once.",
    },
    "ProfileConfig": {
        "measures": "What is measured: bytes, or memory and tokens per second.",
        "sequences": "Sequences of a batch, where speed is measured.",
        "tokens": "Tokens of each.",
        "new_tokens": "Tokens that are generated after them.",
        "repeats": "How often each measurement is repeated; the median counts.",
    },
    "GenerateConfig": {
        "generation": "What is written.",
        "shard_size": "Texts of one item of work.",
        "batch_size": "Texts that are written at once; no text depends on it.",
    },
    "RangeTestConfig": {
        "lowest": "The width at which the test begins.",
        "iterations": "Steps at each width.",
    },
    "SweepConfig": {
        "strategy": "All combinations, random points, or Optuna's TPE.",
        "generation": "How many points TPE is asked for at once.",
        "scheduler": "`asha` stops weak trials early.",
        "asha": "Settings of ASHA.",
    },
    "RangeConfig": {"low": "The least value.", "high": "The greatest value."},
    "AshaConfig": {
        "grace_steps": "Scores that every trial reaches before it may be stopped.",
        "reduction_factor": "One of so many goes on at each rung.",
    },
    "PipelineConfig": {
        "title": "Heading of the report.",
        "steps": "The steps, in order.",
        "table": "The table that the steps fill; null for none.",
        "scale": "The size of the experiment; `tiny` for minutes.",
        "scales": "What this config changes at a scale.",
    },
    "StepConfig": {
        "command": "The command that the step runs.",
        "name": "Its name, by which later steps refer to it, and its folder.",
        "config": "The command's own config.",
    },
    "TableConfig": {"title": "Heading of the table.", "columns": "Its columns.", "rows": "Its rows."},
    "RowConfig": {"name": "Heading of the row.", "keys": "What fills the columns' patterns."},
    "OwnScale": {"steps": "Step -> overrides of its config."},
}
"""By class and key."""


def text_of(section: type, key: str) -> str:
    """What is said of a key of a class or of one of its bases; empty if nothing is."""
    named = (BY_SECTION.get(base.__name__, {}).get(key) for base in section.__mro__)
    return next((text for text in named if text), ANYWHERE.get(key, ""))
