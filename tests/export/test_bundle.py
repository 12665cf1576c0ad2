"""Programs as folders of plain files: written, checked, read back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

import ggdjax as gd
from ggdjax import datapath, export, zoo
from ggdjax._errors import GgdjaxError
from ggdjax.export._hex import parse_hex
from tests.datapath.mixed_network import mixed_program


@pytest.fixture(scope="module")
def program(by_largest, images):
    return datapath.compile(by_largest(gd.trace(zoo.digits_net(), jnp.zeros((1, 8, 8, 1))), images[0]))


@pytest.fixture(scope="module")
def written(program, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "digits"
    export.export_bundle(program, folder, images[1][:2])
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def test_what_is_read_back_is_equal(program, written, images):
    read = export.load_bundle(written)
    assert read.graph == program.graph
    assert read.network.graph == program.network.graph
    for name in ("accelerator", "formats", "feature_maps", "code_formats", "output_scale"):
        assert getattr(read, name) == getattr(program, name), name
    for key, value in program.params.items():
        np.testing.assert_array_equal(read.params[key], value)
        assert read.params[key].dtype == value.dtype
    for name, layer in program.layers.items():
        assert (read.layers[name].accumulator, read.layers[name].magnitude) == (layer.accumulator, layer.magnitude)
    np.testing.assert_array_equal(read.integers(images[1][:2]), program.integers(images[1][:2]))


def test_tables_and_factors_per_position(by_largest, tmp_path):
    program, x = mixed_program(by_largest)
    export.export_bundle(program, tmp_path / "mixed")
    read = export.load_bundle(tmp_path / "mixed")
    assert read.graph == program.graph
    for key, value in program.params.items():
        np.testing.assert_array_equal(read.params[key], value)
    np.testing.assert_array_equal(read(x), program(x))


def test_rounding_of_an_enlargement_is_its_own(by_largest, tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)

    def function(x):
        return jax.image.resize(x @ jnp.eye(2), (x.shape[0], 6, 6, 2), "nearest") @ jnp.ones((2, 2))

    net = gd.trace(function, x)
    nodes = [n.with_attrs(rounding="ceil") if n.op == "resize" else n for n in net.graph.nodes]
    net = gd.network.Network(graph=dataclasses.replace(net.graph, nodes=tuple(nodes)), params=net.params)
    program = datapath.compile(by_largest(net, x))
    export.export_bundle(program, tmp_path / "enlarged")
    read = export.load_bundle(tmp_path / "enlarged")
    assert read.network.graph == net.graph
    np.testing.assert_array_equal(read.integers(x), program.integers(x))


def test_memories_and_golden_vectors(program, written, images):
    manifest = json.loads((written / "manifest.json").read_text(encoding="utf-8"))
    stem = next(m for m in manifest["memories"] if m["node"] == "stem/conv" and m["role"] == "kernel")
    assert (stem["axes"], stem["shape"], stem["bits"]) == (["cout", "height", "width", "cin"], [12, 3, 3, 1], 8)
    lines = (written / stem["file"]).read_text(encoding="utf-8").splitlines()
    kernel = program.layers["stem/conv"].kernel
    assert int(lines[1 * 9 + 2], 16) == int(kernel[0, 2, 0, 1]) % 256
    codes = program.codes(images[1][:2])
    golden = {g["tensor"]: g for g in manifest["golden"]}
    for name, tensor in program.feature_maps.items():
        entry = golden[tensor]
        found = parse_hex((written / entry["file"]).read_bytes(), entry["bits"], entry["signed"], "it")
        np.testing.assert_array_equal(found.reshape(entry["shape"]), codes[name])
    on_disk = {p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file()}
    assert on_disk == {*manifest["files"], "manifest.json", "manifest.sha256"}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_header_compiles_and_holds_the_kernel(program, written, tmp_path):
    source = tmp_path / "sum.c"
    total = " + ".join(
        f"sum(m{index:03d}_head_kernel)" for index, n in enumerate(program.graph.nodes) if n.name == "head"
    )
    source.write_text(
        '#include <stdio.h>\n#include "program.h"\n'
        "#define sum(x) ({ long s = 0; for (unsigned i = 0; i < sizeof x; i++) s += x[i]; s; })\n"
        f'int main(void) {{ printf("%ld", {total}); return 0; }}\n',
        encoding="utf-8",
    )
    subprocess.run(["cc", f"-I{written}", "-o", tmp_path / "sum", source], check=True)
    printed = subprocess.run([tmp_path / "sum"], capture_output=True, text=True, check=True).stdout
    assert int(printed) == program.layers["head"].kernel.astype(int).sum()


def test_damage_is_noticed(copy):
    memory = next((copy / "memories").glob("*.kernel.hex"))
    content = memory.read_bytes()
    memory.write_bytes(content.replace(b"0", b"1", 1))
    with pytest.raises(GgdjaxError, match=rf"{memory.name} is corrupted"):
        export.load_bundle(copy)
    memory.unlink()
    with pytest.raises(GgdjaxError, match=rf"{memory.name} cannot be read"):
        export.load_bundle(copy)
    memory.write_bytes(content)
    path = copy / "manifest.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"version": 1', '"version": 9'), encoding="utf-8")
    with pytest.raises(GgdjaxError, match=r"manifest.json is corrupted"):
        export.load_bundle(copy)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy / "manifest.sha256").write_text(f"{digest}  manifest.json\n", encoding="utf-8")
    with pytest.raises(GgdjaxError, match=r"of version 9; this version of the package reads .* of version 1"):
        export.load_bundle(copy)
    path.unlink()
    with pytest.raises(GgdjaxError, match=r"is no hardware bundle: it has no manifest.json"):
        export.load_bundle(copy)


def test_only_bundles_are_replaced(program, copy, tmp_path):
    (copy / "program.h").write_text("old", encoding="utf-8")
    export.export_bundle(program, copy)
    assert not (copy / "golden").exists()
    assert export.load_bundle(copy).graph == program.graph
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(GgdjaxError, match="is no bundle of ggdjax: choose another"):
        export.export_bundle(program, mine)
    with pytest.raises(GgdjaxError, match="cannot be written"):
        export.export_bundle(program, mine / "thesis.txt" / "below")
    assert {p.name for p in tmp_path.iterdir()} == {"copy", "mine"}
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["expanded_conv/depthwise/batch_norm;" * 10, "层/卷积" * 100, "a" * 300])
def test_names_of_any_length(name, tmp_path):
    from tests.small_onnx import write_network

    model = onnx.load(write_network(tmp_path / "net.onnx"))
    renamed = {out: f"{name}/{out}" for node in model.graph.node[:-1] for out in node.output}
    for node in model.graph.node:
        node.name = f"{name}/{node.output[0]}"
        node.input[:] = [renamed.get(key, key) for key in node.input]
        node.output[:] = [renamed.get(key, key) for key in node.output]
    onnx.save(model, tmp_path / "net.onnx")
    net = gd.load_onnx(tmp_path / "net.onnx")
    x = np.linspace(0, 1, 4 * np.prod(net.input_shape[1:]), dtype=np.float32).reshape(4, *net.input_shape[1:])
    q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
    compiled = datapath.compile(q)
    export.export_bundle(compiled, tmp_path / "bundle", x[:1])
    assert max(len(path.name) for path in (tmp_path / "bundle").rglob("*")) < 70
    back = export.load_bundle(tmp_path / "bundle")
    np.testing.assert_array_equal(back.integers(x), compiled.integers(x))
    q.save(tmp_path / "q")
    np.testing.assert_array_equal(gd.load(tmp_path / "q")(x), q(x))
    gd.network.export_onnx(net, tmp_path / "float.onnx")
    np.testing.assert_array_equal(gd.load_onnx(tmp_path / "float.onnx")(x), net(x))


def test_the_names_of_before_are_still_found():
    assert gd.datapath.export is gd.export.export_bundle
    assert gd.datapath.export_onnx is gd.export.export_onnx
    with pytest.raises(AttributeError, match="has no attribute 'exprt'"):
        gd.datapath.exprt  # noqa: B018
