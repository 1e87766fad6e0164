"""The other side: transformers, PEFT and bitsandbytes on the CPU."""
import logging
import math
import warnings

import bitsandbytes as bnb
import peft
import torch
import transformers

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# ---- models ----


def load(folder, quantize=None, dtype=torch.float32):
    """quantize: (nf4 or fp4, double quantization), or None to load as the folder says."""
    how = {}
    if quantize:
        how["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=quantize[0], bnb_4bit_use_double_quant=quantize[1],
            bnb_4bit_compute_dtype=dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **how)
    if dtype == torch.float32:
        compute_in_fp32(model)
    return model.train()


def compute_in_fp32(model):
    """A 4-bit checkpoint keeps its own types whatever from_pretrained is asked for."""
    for p in model.parameters():
        if p.is_floating_point():
            p.data = p.data.float()
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.compute_dtype = torch.float32
            module.compute_type_is_set = True
            module.weight.quant_state.dtype = torch.float32


def load_adapter(model, folder, trainable=False):
    return peft.PeftModel.from_pretrained(model, folder, is_trainable=trainable).train()


def make_adapter(base, folder, seed=3, **keys):
    """A PEFT adapter whose B is not zero; returns the folder."""
    model = peft.get_peft_model(load(base), peft.LoraConfig(task_type="CAUSAL_LM", **keys))
    chance = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = torch.randn(p.shape, generator=chance) * (0.1 if "lora_A" in name else 0.05)
    model.save_pretrained(folder)
    return folder


def log_probabilities(model, rows):
    """Of each token of each row, given those before it; the first has none."""
    out = []
    with torch.no_grad():
        for ids in rows:
            logits = model(torch.tensor([ids])).logits[0].float()
            logp = torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])
            out.append(logp[:, 0].tolist())
    return out


# ---- training ----


def padded(documents):
    """Rows as transformers' collators pad them."""
    longest = max(len(d["input_ids"]) for d in documents)
    fill = lambda key, value: torch.tensor([d[key] + [value] * (longest - len(d[key])) for d in documents])
    mask = torch.tensor([[1] * len(d["input_ids"]) + [0] * (longest - len(d["input_ids"])) for d in documents])
    return dict(input_ids=fill("input_ids", 0), attention_mask=mask), fill("labels", -100)


def packed(documents):
    """Rows in one sequence: positions begin again, and a first token is nobody's target."""
    ids = [i for d in documents for i in d["input_ids"]]
    positions = [p for d in documents for p in range(len(d["input_ids"]))]
    labels = [x for d in documents for x in [-100] + d["labels"][1:]]
    return dict(input_ids=torch.tensor([ids]), position_ids=torch.tensor([positions])), torch.tensor([labels])


def cross_entropy_sum(model, batch):
    inputs, labels = batch
    logits = model(**inputs, use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]),
                                             labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum")


def train(model, groups, job):
    """groups: of batches, each (inputs, labels). Returns losses, gradient norms, learning rates."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=job["learning_rate"], betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=job["weight_decay"])
    name, special = job["lr_scheduler"], None
    if "cosine_min_lr_ratio" in job:
        name, special = "cosine_with_min_lr", dict(min_lr_rate=job["cosine_min_lr_ratio"])
    schedule = transformers.get_scheduler(name, optimizer, num_warmup_steps=job["warmup_steps"],
                                          num_training_steps=len(groups), scheduler_specific_kwargs=special)
    losses, norms, rates = [], [], []
    for group in groups:
        targets = sum(int((labels[:, 1:] != -100).sum()) for _, labels in group)
        loss = 0.0
        for batch in group:
            part = cross_entropy_sum(model, batch) / targets
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, job["max_grad_norm"] or math.inf)
        losses.append(loss)
        norms.append(norm.item())
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return losses, norms, rates


def adapter_tensors(model):
    return {k: v.detach().float() for k, v in peft.get_peft_model_state_dict(model).items()}
