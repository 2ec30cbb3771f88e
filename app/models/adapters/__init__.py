"""Adapters: model classes for what people have already, each in a module of its own, behind the extra of its name.

They keep the contract of `app.models.Model` like any other class, and learn `Item` and `Prediction` in `load`. Their
libraries are imported with their modules, which is when a model declares them.
"""

ADAPTERS = {
    "joblib": "app.models.adapters.joblib:Joblib",
    "skops": "app.models.adapters.skops:Skops",
    "onnx": "app.models.adapters.onnx:Onnx",
    "mlflow": "app.models.adapters.mlflow:Mlflow",
    "transformers": "app.models.adapters.transformers:Transformers",
    "remote": "app.models.adapters.remote:Remote",
}
"""What `adapter = "…"` in `models.toml` stands for."""
