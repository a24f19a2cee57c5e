"""What pyproject.toml cannot say: a C++ kernel that is built where there is a compiler, and else left out."""

from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("sememe/decode/native")
# Processor features are chosen at run time, path by path: no flag here may ask for any.
FLAGS = ["-std=gnu++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-g0"]
# Vectors are passed within a file only.
QUIET = ["-Wno-psabi"]

setup(
    ext_modules=[
        Extension(
            "sememe.decode.native._kernel",
            sources=sorted(path.as_posix() for path in FOLDER.glob("*.cpp")),
            depends=sorted(path.as_posix() for path in FOLDER.glob("*.h")),
            language="c++",
            extra_compile_args=[*FLAGS, *QUIET],
            # Without it everything works, only slower.
            optional=True,
        )
    ]
)
