import sys
from pathlib import Path

import pack


def test_the_pack_is_imported_under_its_alias_whatever_its_folder_is_called():
    package = pack.load_pack()
    assert package is sys.modules["postdiff"]
    assert [Path(entry) for entry in package.__path__] == [pack.ROOT]


def test_the_hosts_nodes_module_is_not_hidden_by_the_packs_folder():
    import nodes

    assert Path(nodes.__file__) == pack.comfyui_path() / "nodes.py"


def test_nothing_is_saved_into_the_host_tree():
    import folder_paths

    assert not Path(folder_paths.get_output_directory()).is_relative_to(pack.comfyui_path())
