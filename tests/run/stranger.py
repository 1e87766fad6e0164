"""What a new user does wrong, and what the program says to it: tests/run/stranger.txt is the
transcript, to be read by people. NIBBLE_TRANSCRIPT=write writes it anew."""
import json
import os
import re
import resource
import signal


import nibble

TRANSCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stranger.txt")
DEVICE = 8  # the exit code
CONFIG = """base_model: base
adapter: qlora
load_in_4bit: true
chat_template: chatml
datasets:
  - path: chats.jsonl
    type: chat_template
output_dir: out
sequence_len: 256
micro_batch_size: 2
num_epochs: 1
learning_rate: 0.0002
lora_r: 8
lora_alpha: 16
lora_target_linear: true
bf16: false
"""


class Stranger(nibble.Case):
    maxDiff = None

    def setUp(self):
        super().setUp()
        self.said = []
        nibble.make_model(self.path("base"), num_hidden_layers=1, max_position_embeddings=64)
        nibble.write(self.path("my.yaml"), CONFIG)
        with open(self.path("chats.jsonl"), "w") as f:
            for i in range(8):
                f.write(json.dumps({"messages": [{"role": "user", "content": "Say %d." % i},
                                                 {"role": "assistant", "content": "%d." % i}]}) + "\n")

    def note(self, what, arguments, code, err):
        """Warnings and the error are kept; what changes from run to run is not."""
        lines = [s for s in err.splitlines() if s.startswith(("error:", "warning:"))]
        text = "\n".join(lines).replace(self.dir, "DIR")
        text = re.sub(r"pid \d+ on \S+\)", "pid N on HOST)", text)
        text = re.sub(r"\b\d+(\.\d+)? (bytes|[KMG]iB)", "N bytes", text)
        self.said.append("# %s\n$ train %s\n%s\n[exit %d]\n" % (what, " ".join(arguments), text, code))

    def wrong(self, what, *arguments, code, **more):
        r = nibble.run(self.dir, *arguments, **more)
        self.assertEqual(r.code, code, r)
        self.note(what, arguments, r.code, r.err)
        return r

    def second_run(self):
        """Two at a time; and Ctrl-C twice for the first, whose model is still being read."""
        keys = ("--config", "my.yaml", "num_epochs=20000", "save_strategy=no")
        p = nibble.start(self.dir, *keys)
        try:
            seen = self.path("out", "metrics.jsonl")
            self.assertTrue(nibble.wait_for(lambda: os.path.exists(seen) and os.path.getsize(seen)))
            self.wrong("a second run in the same folder", "--config", "my.yaml", code=nibble.LOCKED)
            p.send_signal(signal.SIGSTOP)  # both are there before it can look
            p.send_signal(signal.SIGINT)
            nibble.time.sleep(0.05)
            p.send_signal(signal.SIGCONT)
            p.send_signal(signal.SIGINT)
            self.assertEqual(p.wait(nibble.TIMEOUT), nibble.INTERRUPTED)
        finally:
            p.kill()
            p.wait()
        self.assertNotIn("adapter_model.safetensors", os.listdir(self.path("out")))
        self.wrong("after that: the same command again", "--config", "my.yaml", code=nibble.USAGE)

    def test_ten_wrong_things(self):
        nibble.write(self.path("windows.yaml"), CONFIG.encode("utf-16"))
        nibble.write(self.path("latin.yaml"), CONFIG.encode() + "wandb_project: café\n".encode("cp1252"))
        os.makedirs(self.path("notokens"))
        for name in "config.json", "model.safetensors":
            os.link(self.path("base", name), self.path("notokens", name))
        nibble.write(self.path("d.parquet"), b"PAR1" + bytes(40) + b"PAR1")
        check = ("check", "--config", "my.yaml")
        self.wrong("a mistyped verb", "trian", "--config", "my.yaml", code=nibble.USAGE)
        self.wrong("a configuration that is not there", "--config", "mine.yaml", code=nibble.USAGE)
        self.wrong("a key of another program", *check, "lora_rank=8", code=nibble.USAGE)
        self.wrong("a mistyped key", *check, "learing_rate=1e-4", code=nibble.USAGE)
        self.wrong("YAML saved by a Windows editor as UTF-16", "check", "--config", "windows.yaml",
                   code=nibble.USAGE)
        self.wrong("... or in its code page", "check", "--config", "latin.yaml", code=nibble.USAGE)
        self.wrong("a folder without tokenizer", *check, "base_model=notokens", code=nibble.MODEL)
        self.wrong("a model that was never downloaded", *check, "base_model=org/name",
                   code=nibble.MODEL, env={"HF_HUB_CACHE": self.path("cache")})
        self.wrong("a damaged Parquet file", *check, "datasets.0.path=d.parquet", code=nibble.DATA)
        self.wrong("a mistyped data file", *check, "datasets.0.path=chat.jsonl", code=nibble.DATA)
        self.wrong("a sequence longer than the model's", *check, "sequence_len=4096", code=nibble.OK)
        self.wrong("a sequence too long for the memory", "plan", "--config", "my.yaml",
                   "memory.device_budget=300KB", code=nibble.MEMORY)
        self.wrong("no rows left after filtering", *check, "sequence_len=8", code=nibble.DATA)
        self.wrong("a card that is not there", "--config", "my.yaml", "--device", "cuda",
                   code=DEVICE)
        self.second_run()
        self.wrong("a full disk", "--config", "my.yaml", "output_dir=full", code=nibble.IO,
                   limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)))
        self.wrong("space again", "--config", "my.yaml", "output_dir=full", "--resume", code=nibble.OK)
        os.unlink(self.path("full", "summary.json"))
        self.wrong("an old checkpoint with a changed configuration", "--config", "my.yaml",
                   "output_dir=full", "--resume", "learning_rate=0.001", code=nibble.USAGE)
        got = "\n".join(self.said)
        if os.environ.get("NIBBLE_TRANSCRIPT") == "write":
            nibble.write(TRANSCRIPT, got)
        self.assertEqual(got, nibble.read(TRANSCRIPT).decode())


if __name__ == "__main__":
    nibble.main()
