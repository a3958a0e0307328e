"""Transformers' Trainer, as its documentation saves and resumes.

    python transformers_job.py FOLDER

save_strategy="steps" saves, and train(resume_from_checkpoint=True) resumes from the newest folder:
https://huggingface.co/docs/transformers/main/en/trainer
"""

import sys

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

VOCABULARY, CONTEXT, SAMPLES = 64, 16, 80


class Sequences(Dataset):
    def __init__(self):
        data = torch.Generator().manual_seed(2)
        starts = torch.randint(VOCABULARY, (SAMPLES, 1), generator=data)
        rates = torch.randint(1, 8, (SAMPLES, 1), generator=data)
        self.tokens = (starts + rates * torch.arange(CONTEXT)) % VOCABULARY

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def model():
    size = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": CONTEXT}
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**size, **tokens))


def main(folder):
    arguments = TrainingArguments(
        output_dir=folder, num_train_epochs=3, per_device_train_batch_size=8, learning_rate=1e-3,
        save_strategy="steps", save_steps=4, save_total_limit=2, seed=1, report_to="none",
        use_cpu=True, disable_tqdm=True, logging_steps=5,
    )  # fmt: skip
    trainer = Trainer(model_init=model, args=arguments, train_dataset=Sequences())
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) is not None)


if __name__ == "__main__":
    main(sys.argv[1])
