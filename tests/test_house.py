import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pearl_sb3

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pearl_sb3"

# A module may import from its own room and from rooms above it.
ROOMS = [
    {"observations", "optimizers", "provenance"},
    {"encoders"},
    {"attention"},
    {"extractor"},
    {"callbacks"},
    {"ssl"},
    {"atari"},
    {"probing"},
    {"pretraining"},
    {"benchmark"},
    {"viz"},
    {"zoo", "zoo_hook"},
    {"cli"},
]

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
DOCUMENTED = [*MODULES, PACKAGE / "__init__.py", *sorted((ROOT / "benchmarks").glob("*.py"))]


def name_of(path):
    return str(path.relative_to(ROOT))


def tracked():
    """:return: the files that git has, or would add"""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def level(module):
    """:return: the number of the room of ``module``, a name without ``pearl_sb3.``"""
    room = module.split(".")[0]
    found = [number for number, rooms in enumerate(ROOMS) if room in rooms]
    assert found, f"pearl_sb3/{room} has no place in ROOMS"
    return found[0]


def imported(path):
    """:return: the modules of the package that a file imports, without ``pearl_sb3.``"""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}:{node.lineno} imports relatively; name the package"
            if node.module == "pearl_sb3":
                names = [alias.name for alias in node.names if not alias.name.startswith("__")]
                found += [pearl_sb3._LAZY.get(name, f"pearl_sb3.{name}") for name in names]
            else:
                found.append(node.module)
    return [name.removeprefix("pearl_sb3.") for name in found if name.startswith("pearl_sb3.")]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_go_upwards(path):
    own = level(str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."))
    below = [module for module in imported(path) if level(module) > own]
    assert not below, f"{name_of(path)} imports from rooms below its own: {below}"


@pytest.mark.parametrize("path", DOCUMENTED, ids=name_of)
def test_public_names_are_documented(path):
    bare = []
    body = ast.parse(path.read_text()).body
    methods = [part for node in body if isinstance(node, ast.ClassDef) and node.name[0] != "_" for part in node.body]
    for node in [*body, *methods]:
        public = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public and not ast.get_docstring(node) and not is_overload(node):
            bare.append(f"{path.name}:{node.lineno} {node.name}")
    assert not bare


def is_overload(node):
    return any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)


@pytest.mark.parametrize("module", ["pearl_sb3", "pearl_sb3.zoo_hook"])
def test_import_is_light(module):
    code = f"import sys, {module}; print([name for name in ('torch', 'timm', 'stable_baselines3') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_can_be_imported():
    for name in pearl_sb3.__all__:
        assert getattr(pearl_sb3, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        pearl_sb3.no_such_name  # noqa: B018


def test_no_file_names_a_place_of_one_machine():
    place = re.compile(r"(?<![\w.}])/(?:home|root|Users|work|farm)/\w")
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content:
            lines = enumerate(content.decode().splitlines(), 1)
            found += [f"{name_of(path)}:{number}" for number, line in lines if place.search(line)]
    assert not found


def setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_version_is_the_same_everywhere():
    assert setup_cfg()["metadata"]["version"] == pearl_sb3.__version__


def test_every_package_travels_in_the_wheel():
    listed = set(setup_cfg()["options"]["packages"].split())
    folders = [path.parent for path in PACKAGE.rglob("__init__.py")]
    assert listed == {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"pearl_sb3.hyperparams"}


def test_readme_scripts_run_as_they_stand(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script, objective = (next(block for block in blocks if word in block) for word in ("make_atari_env(", "SSLCallback("))
    # Only how long it takes is changed. A fresh interpreter, where nothing was imported or registered by others.
    text = (script + objective).replace("1_000_000", "32").replace("n_envs=8", "n_envs=2")
    text = text.replace('PPO("CnnPolicy", env, ', 'PPO("CnnPolicy", env, n_steps=16, batch_size=16, ')
    assert "n_steps=16" in text and "1_000_000" not in text
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pearl_pong.zip").exists()
