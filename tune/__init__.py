"""The hyperparameter search: medqa, run by Ray Tune, steered by Optuna and ASHA, recorded in MLflow."""
