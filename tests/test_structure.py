"""How the parts of the tree may depend on each other."""
import ast
from functools import cache
from graphlib import TopologicalSorter

import pytest

from tests.conftest import ROOT

# what the modules of a folder may import from other folders; deeper folders before those that hold them
ALLOWED = {
    "runners": (),  # copied into bundles, where there is nothing of this repository
    "symbols": (),  # can be copied into any project
    "common/base": (),
    "common/checkpoint": ("common.find_mxnet", "common/base", "symbols"),
    "common/images": ("common/base", "common/checkpoint", "symbols"),
    "common/evaluation": ("common", "common/base", "common/checkpoint"),
    "common/conversion": ("common/base", "common/checkpoint", "symbols"),
    "common/curves": ("common/base",),
    "common/data": ("common", "common/base", "common/checkpoint", "common/images", "symbols"),
    "common/launching": ("common/base",),
    "common/packing": ("common/base", "common/images"),
    "common/training": ("common", "common/base", "common/checkpoint", "common/conversion", "common/data",
                        "common/evaluation", "common/images", "symbols"),
    "common/zoo": ("common/base", "common/checkpoint", "symbols"),
    # without what compiles, which takes seconds to import
    "common/inference": ("common/base", "common/checkpoint", "common/evaluation", "common/images"),
    "common/compiler": ("common/base", "common/checkpoint", "common/inference", "symbols"),
    "common": ("common/base", "symbols"),
    "tools": ("common", "common/base", "common/checkpoint", "common/compiler", "common/conversion", "common/curves",
              "common/images", "common/inference", "common/launching", "common/packing", "symbols"),
    # the three scripts
    "": ("common", "common/base", "common/checkpoint", "common/data", "common/evaluation", "common/images",
         "common/inference", "common/training"),
    "benchmarks": ("common", "common/base", "common/checkpoint", "common/data", "common/evaluation", "common/images",
                   "common/inference", "common/packing", "common/training", "symbols", "tools"),
}
DOORS = {  # modules of common that lead to its rooms
    "common.compile": ("common/checkpoint", "common/compiler", "common/inference"),
    "common.fit": ("common/evaluation", "common/images", "common/training"),
    "common.modelzoo": ("common/checkpoint", "common/conversion", "common/zoo"),
    "common.util": ("common/zoo",),
}
SOURCES = [path for pattern in ("*.py", "symbols/*.py", "common/**/*.py", "tools/*.py", "runners/*.py",
                                "benchmarks/*.py") for path in sorted(ROOT.glob(pattern))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in SOURCES}


def folder_of(module):
    return "/".join(module.split(".")[:-1])


@cache
def parsed(path):
    return ast.parse(path.read_text())


def imports(path, statements):
    """The modules of this repository that these imports are of, or of something in them."""
    for node in statements:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                module = f"{node.module}.{name.name}"
                yield module if module in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    here = folder_of(module)
    allowed = (*ALLOWED[here], *DOORS.get(module, ()))
    for imported in imports(MODULES[module], ast.walk(parsed(MODULES[module]))):
        if imported.split(".")[0] in ("common", "symbols", "tools", "runners", "benchmarks", "tests"):
            assert {folder_of(imported), imported} & {here, *allowed}, f"{module} imports {imported}"


def test_no_modules_import_each_other():
    """At their beginning, that is; CycleError names those that do."""
    graph = {module: [imported for imported in imports(path, parsed(path).body) if imported in MODULES]
             for module, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)
