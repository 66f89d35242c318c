"""The names of the files in a run directory, and what each holds."""

from __future__ import annotations

CONFIG = "config.yaml"
RUN = "run.json"
RESULT = "result.json"
ENVIRONMENT = "environment.json"
TRACKING = "tracking.json"
"""The file that names this directory's MLflow run, so a run that goes on stays one run."""
TRACKING_QUEUE = "tracking_queue.jsonl"
"""What MLflow has not been told yet; it is there only while something waits."""
PIPELINE = "pipeline.json"
TABLE = "table.json"

CHECKPOINT, BEST_CHECKPOINT = "checkpoint", "checkpoint_best"
LOSSES = "losses.jsonl"
VALIDATION, VALIDATION_PICTURE = "validation.jsonl", "validation.png"
EVALUATIONS = "evaluations.json"
EVALUATION_RECORD = "evaluations.jsonl"
BITMAPS_PICTURE = "bitmaps.png"
SEARCH_RECORD = "search.jsonl"
JUDGE_RECORD = "judge.jsonl"
RESOLUTION = "resolution.json"
"""How many examples a search scores, so one that goes on scores the same without measuring the noise again."""
FRONT, FRONT_TABLE, FRONT_PICTURE, FRONT_BITMAPS = "front.json", "front.csv", "front.png", "front_bitmaps.png"
ATTACK_RECORD = "attacks.jsonl"
ATTACK_JUDGED = "attacks_judged.jsonl"
ATTACK_SKIPPED = "attacks_skipped.jsonl"
ROBUSTNESS = "robustness.json"
SCORE_TABLE = "scores_{score}.json"
"""The table of one score of all sites."""
LATENCY_TABLE = "latency.json"
METHODS, OUTCOME = "methods", "outcome.json"
TRIALS, TRIAL = "trials", "trial.json"

FILES = {
    CONFIG: "resolved config; runs as it stands",
    RESULT: "the result",
    CHECKPOINT: "the trained adapters, with checksums",
    LOSSES: "training loss of every step",
    VALIDATION: "scores in the middle of training",
    VALIDATION_PICTURE: "scores in the middle of training as a picture",
    "loss.svg": "the learning curves as a picture",
    "sensitivity*.svg": "what each site loses by width, as a heat map",
    "transfer.svg": "the transfer matrix as a heat map",
    EVALUATIONS: "scores of every example",
    EVALUATION_RECORD: "record of evaluations, with scores of every example",
    BITMAPS_PICTURE: "the bitmaps as a picture",
    FRONT: "all evaluated bitmaps and the front",
    FRONT_TABLE: "the front as a table",
    FRONT_PICTURE: "the front as a picture",
    FRONT_BITMAPS: "the front's bitmaps as a picture",
    RESOLUTION: "how many examples the search scored, and why",
    "trace.csv": "the strategy's own steps",
    SEARCH_RECORD: "record of evaluations, with scores of every example",
    JUDGE_RECORD: "record of the finalists' evaluations on examples that the search has not seen",
    ROBUSTNESS: "success, transfer, random precision",
    ATTACK_RECORD: "every attacked text",
    ATTACK_JUDGED: "what every attacked text is read as, at each bitmap and draw",
    ATTACK_SKIPPED: "texts that could not be attacked, with the reason",
    SCORE_TABLE.format(score="*"): "the scores of all sites at all choices, for a search",
    LATENCY_TABLE: "measured latencies of the sites, for a search",
    TRIALS: "each trial's config, checkpoint, losses and scores",
    METHODS: "each method's checkpoint and scores of every example",
    "packed": "the export: packed integers, with checksums",
    "model.gguf": "the export: one GGUF file",
    "compressed-tensors": "the export: a folder for transformers and vLLM, with checksums",
    "gguf-lora": "the export: a GGUF base and one adapter per width",
    "data": "the generated data, with checksums",
    ENVIRONMENT: "commit, versions, hardware",
    TRACKING: "the run in MLflow",
    TRACKING_QUEUE: "what MLflow has not been told yet",
}
"""What a report says of each file that it links to, in this order; a name may be a pattern."""
