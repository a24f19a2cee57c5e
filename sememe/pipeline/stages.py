"""Stages of a run: each is an artifact named by the hash of all that goes into it, made once and then reused."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sememe.core.artifact import MANIFEST, Manifest, is_artifact, read_artifact, write_artifact
from sememe.core.config import to_tree

Say = Callable[[str], None]
"""Where one line of progress goes."""


@dataclass(frozen=True)
class Workbench:
    """The two directories that a stage may write to."""

    target: Path
    """Becomes the artifact when the stage ends well."""
    scratch: Path
    """Survives a crash, so that long work can go on where it stopped; removed once the artifact is in place."""


@dataclass(frozen=True)
class StageStore:
    """The stages of one run directory."""

    root: Path
    say: Say
    recipe_hash: str
    """Kept in every manifest; a stage can serve other recipes too, so it is no part of its name."""

    def get(
        self,
        name: str,
        *,
        settings: Mapping[str, object],
        inputs: Mapping[str, str],
        make: Callable[[Workbench], Mapping[str, Any]],
    ) -> Manifest:
        """The stage `name` for these settings and inputs: reused where it is there, else made.

        Args:
            settings: parts, plain values, or JSON objects that steer the stage; all of them enter its hash.
            inputs: name -> content hash of each artifact or file that the stage reads.
            make: fills `Workbench.target` and returns JSON to keep in the manifest.

        Raises:
            ArtifactError: the stage is there but damaged.
        """
        described = {
            key: dict(value) if isinstance(value, Mapping) else to_tree(value) for key, value in settings.items()
        }
        recipe = {"stage": name, "settings": described, "inputs": dict(inputs)}
        path = self.root / f"{name}-{_digest(recipe)}"
        scratch = self.root / f".{path.name}.work"
        if is_artifact(path):
            # A kill between the artifact's last rename and the removal below leaves the scratch behind.
            shutil.rmtree(scratch, ignore_errors=True)
            self.say(f"{name}: unchanged, reused")
            return read_artifact(path, kind=name)
        self.say(f"{name}: {self._reason(name, described, inputs)}")
        started = time.monotonic()
        scratch.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {"recipe_hash": self.recipe_hash, "settings": described, "inputs": dict(inputs)}
        # Then `seconds` are those of this process alone.
        found["resumed"] = any(scratch.iterdir())
        with write_artifact(path, kind=name, meta=found) as target:
            found["result"] = dict(make(Workbench(target=target, scratch=scratch)))
            found["seconds"] = round(time.monotonic() - started, 2)
            found["peak_memory_mib"] = _peak_memory_mib()
        shutil.rmtree(scratch)
        self.say(f"{name}: done in {found['seconds']:.1f} s")
        return read_artifact(path, kind=name)

    def _reason(self, name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
        """Why the stage is made: it is new, or what changed since the newest one of that name."""
        older = [
            file.parent
            for file in self.root.glob(f"{name}-*/{MANIFEST}")
            if file.parent.name.rpartition("-")[0] == name
        ]
        if not older:
            return "running"
        newest = max(older, key=lambda folder: (folder / MANIFEST).stat().st_mtime)
        meta = json.loads((newest / MANIFEST).read_text(encoding="utf-8"))["meta"]
        before, now = _flat(meta["settings"]), _flat(settings)
        changed = [
            f"{path} {before.get(path, 'unset')} -> {now.get(path, 'unset')}"
            for path in sorted(before.keys() | now.keys())
            if before.get(path) != now.get(path)
        ]
        changed += [f"input {key} changed" for key, value in inputs.items() if meta["inputs"].get(key) != value]
        return "running again, since " + "; ".join(changed[:3]) + (" ..." if len(changed) > 3 else "")


def _peak_memory_mib() -> int | None:
    """Most memory that this process has held so far, this stage and those before it; None where the system does not
    tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _flat(tree: Any) -> dict[str, str]:
    """Path -> JSON text of every leaf of a JSON tree."""
    if isinstance(tree, Mapping):
        return {f"{key}.{path}".rstrip("."): text for key, value in tree.items() for path, text in _flat(value).items()}
    if isinstance(tree, list) and any(isinstance(element, Mapping) for element in tree):
        return _flat({str(place): element for place, element in enumerate(tree)})
    return {"": json.dumps(tree)}
