"""The peers' side of `gp.py`: GPyTorch and scikit-learn, in a process of their own that needs neither jax nor us.

Each line on standard input is a request in JSON, {"who": "gpytorch" or "sklearn", "n": 256, "do": "evaluate" or
"fit", "outputs": 4}; each line on standard output answers with the seconds that it took.  The first line says which
versions answer.  `evaluate` is one likelihood with its gradient for all outputs, from the same parameters as ours;
`fit` is SciPy's L-BFGS from the same start, one output after the other.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
from scipy.optimize import minimize

Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]
OPTIONS = {"maxfun": 400, "maxiter": 400, "ftol": 1e-8, "gtol": 1e-2}


def sklearn_loss(z: np.ndarray, y: np.ndarray) -> tuple[Loss, np.ndarray]:
    """-log p(y) by scikit-learn, with its gradient, and where to start."""
    from sklearn.gaussian_process import GaussianProcessRegressor  # pyright: ignore[reportMissingImports]
    from sklearn.gaussian_process.kernels import (  # pyright: ignore[reportMissingImports]
        RBF,
        ConstantKernel,
        WhiteKernel,
    )

    kernel: Any = ConstantKernel(1.0) * RBF(np.ones(z.shape[1])) + WhiteKernel(0.01)  # pyright: ignore
    process: Any = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)  # pyright: ignore
    process.fit(z, y)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = process.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False)
        return -float(value), -np.asarray(gradient)

    return loss, np.array(process.kernel_.theta)


def gpytorch_loss(z: np.ndarray, ys: np.ndarray, cholesky_up_to: int = 1_000_000) -> tuple[Loss, np.ndarray]:
    """The sum over outputs of -log p(y) by GPyTorch, one batch, with its gradient by its raw parameters."""
    import gpytorch  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    batch = torch.Size([len(ys)]) if len(ys) > 1 else torch.Size()
    x = torch.tensor(z).expand(*batch, *z.shape)
    y = torch.tensor(ys if len(ys) > 1 else ys[0])

    class Process(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood(batch_shape=batch))
            self.mean_module = gpytorch.means.ZeroMean(batch_shape=batch)
            shape = gpytorch.kernels.RBFKernel(ard_num_dims=z.shape[1], batch_shape=batch)
            self.covar_module = gpytorch.kernels.ScaleKernel(shape, batch_shape=batch)

        def forward(self, x: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    process = Process().double()
    process.covar_module.base_kernel.lengthscale = 1.0
    process.covar_module.outputscale = 1.0
    process.likelihood.noise = 0.01
    process.train()
    likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(process.likelihood, process)
    parameters = list(process.parameters())

    def loss(raw: np.ndarray) -> tuple[float, np.ndarray]:
        torch.nn.utils.vector_to_parameters(torch.tensor(raw), parameters)
        process.zero_grad()
        with gpytorch.settings.max_cholesky_size(cholesky_up_to):
            value = -likelihood(process(x), y).sum() * z.shape[0]  # it divides by n
            value.backward()
        gradient = np.concatenate([p.grad.numpy().ravel() for p in parameters])
        return float(value), gradient

    return loss, torch.nn.utils.parameters_to_vector(parameters).detach().numpy()


def losses(who: str, z: np.ndarray, ys: np.ndarray, together: bool) -> list[tuple[Loss, np.ndarray]]:
    """One loss for each output, or where that is faster one for all of them."""
    if who == "sklearn":
        return [sklearn_loss(z, y) for y in ys]
    size = 800 if who == "gpytorch-default" else 1_000_000
    return [gpytorch_loss(z, ys, size)] if together else [gpytorch_loss(z, ys[i : i + 1], size) for i in range(len(ys))]


def answer(request: dict[str, Any], kept: dict[str, Any], data: Any) -> dict[str, Any]:
    """Do what one line asks for."""
    z, ys = data[f"z{request['n']}"], data[f"y{request['n']}"][: request["outputs"]]
    name = json.dumps(request, sort_keys=True)
    if name not in kept:
        kept[name] = losses(request["who"], z, ys, request["do"] == "evaluate")
        [loss(start) for loss, start in kept[name]]
    began, worked, values, evaluations = time.perf_counter(), time.process_time(), [], 0
    for loss, start in kept[name]:
        if request["do"] == "evaluate":
            values.append(loss(start)[0])
            evaluations += 1
        else:
            ended = minimize(loss, start, jac=True, method="L-BFGS-B", options=OPTIONS)
            values.append(float(ended.fun))
            evaluations += int(ended.nfev)
    took = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - worked}
    return took | {"value": sum(values), "evaluations": evaluations}


def main() -> int:
    """Answer until standard input ends."""
    warnings.filterwarnings("ignore")
    about, data = {}, np.load(sys.argv[1])
    for package in ("gpytorch", "scikit-learn", "torch"):
        try:
            about[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            about[package] = None
    if about["torch"]:
        import torch  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(1)
    print(json.dumps(about), flush=True)
    kept: dict[str, Any] = {}
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), kept, data)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
