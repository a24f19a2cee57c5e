"""What no file of the package may call: code from data, hidden randomness, hidden threads."""

import ast
from fnmatch import fnmatch

from sources import Source, python_sources, told

BANNED_IMPORTS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BANNED_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "torch.load": "unpickles; use safetensors",
    "torch.save": "pickles; use safetensors",
    "pd.read_pickle": "unpickles",
    "os.system": "runs a shell",
}
BANNED_KEYWORDS = {"trust_remote_code", "allow_pickle"}
# Calls that belong to a few files only.
PLACES = {
    "torch.set_num_threads": ("sememe/train/device.py",),
    "torch.set_num_interop_threads": ("sememe/train/device.py",),
    "random.seed": ("sememe/core/seeding.py",),
    "np.random.*": ("sememe/core/seeding.py",),
    "numpy.random.*": ("sememe/core/seeding.py",),
    "torch.manual_seed": ("sememe/core/seeding.py", "sememe/train/loop.py", "sememe/models/*.py"),
    "torch.seed": (),
}


def _call_faults(source: Source, node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    found = [source.finding(node, f"{name} {BANNED_CALLS[name]}")] if name in BANNED_CALLS else []
    for keyword in node.keywords:
        constant_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in BANNED_KEYWORDS and not constant_false:
            found.append(source.finding(node, f"{keyword.arg} lets data run code"))
    for pattern, places in PLACES.items():
        if fnmatch(name, pattern) and not any(fnmatch(source.path, place) for place in places):
            found.append(source.finding(node, f"{name} belongs to {' or '.join(places) or 'no file'}"))
    return found


def unsafe(source: Source) -> list[str]:
    """Imports and calls that the package does without."""
    found = []
    for node in ast.walk(source.tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            found += _call_faults(source, node)
        banned = [name for name in names if name.split(".")[0] in BANNED_IMPORTS]
        found += [source.finding(node, f"{name} reads code from data") for name in banned]
    return found


def test_nothing_runs_code_from_data_or_draws_unseeded() -> None:
    found = [line for source in python_sources("sememe") for line in unsafe(source)]
    assert not found, told(found)


def test_each_planted_fault_is_found() -> None:
    for text in (
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "eval(x)",
        "exec(x)",
        "torch.load(path)",
        "torch.save(model, path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
        "np.random.default_rng(0)",
        "np.random.shuffle(x)",
        "torch.manual_seed(0)",
        "torch.set_num_threads(1)",
    ):
        assert unsafe(Source("sememe/data/x.py", text)), text
    for text in ("model.eval()", "np.load(path, allow_pickle=False)", "torch.Generator().manual_seed(seed)"):
        assert not unsafe(Source("sememe/data/x.py", text)), text
    assert not unsafe(Source("sememe/train/device.py", "torch.set_num_threads(1)"))
