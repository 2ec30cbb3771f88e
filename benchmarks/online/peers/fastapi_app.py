"""FastAPI as the article has it: an async view that calls the model, pydantic in and out."""

from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.online.classifier import load_all

PREDICT = load_all()


class Item(BaseModel):
    text: str


class Items(BaseModel):
    data: list[Item]


class Answer(BaseModel):
    text: str
    sentiment: str


class Answers(BaseModel):
    prediction: list[Answer]


app = FastAPI()


@app.post("/{model}", response_model=Answers)
async def predict(model: str, items: Items) -> dict[str, list[dict[str, str]]]:
    texts = [item.text for item in items.data]
    labels = PREDICT[model](texts)
    return {
        "prediction": [{"text": text, "sentiment": label} for text, label in zip(texts, labels, strict=True)]
    }
