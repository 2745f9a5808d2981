"""The callback for Lightning: the same training with and without it."""

import sys

import pytest

pytest.importorskip("torch")


import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# Lightning has warnings of its own, on loaders without workers and more.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "hessops_torch.lightning", raising=False)
    with pytest.raises(ImportError, match="needs Lightning, the extra 'lightning'"):
        import hessops_torch.lightning  # noqa: F401


class TestCallback:
    """Needs Lightning."""

    @pytest.fixture(autouse=True)
    def _lightning(self):
        pytest.importorskip("lightning", reason="needs Lightning")

    def fit(self, folder, *callbacks, max_steps=12, checkpoint=None, accumulate=1):
        import lightning.pytorch as pl

        class Module(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(
                    nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 2)
                )

            def training_step(self, batch, _index):
                x, y = batch
                return nn.functional.mse_loss(self.net(x), y)

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

        pl.seed_everything(0, verbose=False)
        module = Module()
        x, y = torch.randn(40, 3), torch.randn(40, 2)
        loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
        trainer = pl.Trainer(
            max_steps=max_steps, accelerator="cpu", callbacks=list(callbacks), logger=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            accumulate_grad_batches=accumulate, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(module, loader, ckpt_path=checkpoint)
        return trainer, module

    def callback(self, **options):
        from hessops_torch.lightning import CurvatureCallback

        data = [(torch.linspace(-1, 1, 30).reshape(10, 3), torch.ones(10, 2))]
        settings = {"every": 4, "k": 2, "max_share": None, "part": "net", "rng": 0}
        return CurvatureCallback(nn.MSELoss(), data, **{**settings, **options})

    def test_the_training_is_the_same_bit_for_bit(self, tmp_path):
        callback = self.callback(measure_first=True)
        alone, module = self.fit(tmp_path)
        tracked, watched = self.fit(tmp_path, callback)
        assert alone.global_step == tracked.global_step
        for a, b in zip(module.state_dict().values(), watched.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        momenta = [
            [s["momentum_buffer"] for s in t.optimizers[0].state.values()] for t in (alone, tracked)
        ]
        assert all(map(torch.equal, *momenta))
        assert [record.step for record in callback.records] == [0, 4, 8, 12]
        assert callback.records[-1].two_over_learning_rate == pytest.approx(40)
        assert callback.records[-1].stability_limit == pytest.approx(76)

    def test_accumulated_batches_are_one_step(self, tmp_path):
        callback = self.callback(every=2)
        self.fit(tmp_path, callback, max_steps=6, accumulate=2)
        assert [record.step for record in callback.records] == [2, 4, 6]

    def test_a_run_goes_on_from_its_checkpoint(self, tmp_path):
        first = self.callback(csv=tmp_path / "c.csv")
        trainer, _ = self.fit(tmp_path, first, max_steps=8)
        trainer.save_checkpoint(tmp_path / "at-8.ckpt")
        second = self.callback(csv=tmp_path / "c.csv")
        self.fit(tmp_path, second, max_steps=16, checkpoint=tmp_path / "at-8.ckpt")
        assert [record.step for record in second.records] == [4, 8, 12, 16]
        assert second.tracker.num_steps == 16

    def test_loggers_get_the_numbers(self, tmp_path):
        from lightning.pytorch.loggers import CSVLogger

        callback = self.callback()
        logged = []

        class Logger(CSVLogger):
            def log_metrics(self, metrics, step=None):
                logged.append((step, metrics))

        trainer, _module = self.fit(tmp_path, callback, max_steps=1)
        trainer.loggers = [Logger(tmp_path)]
        callback._log(trainer, callback.tracker.measure(5))
        ((step, metrics),) = logged
        assert step == 5
        assert metrics["curvature/eigenvalue_1"] == callback.records[-1].eigenvalues[0]
        assert metrics["curvature/two_over_learning_rate"] == pytest.approx(40)

    def test_a_part_that_is_not_there(self, tmp_path):
        with pytest.raises(AttributeError, match="nett"):
            self.fit(tmp_path, self.callback(part="nett"))
