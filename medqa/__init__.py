"""The task and the model: MedQA questions, prompts, QLoRA training, scoring, metrics."""
