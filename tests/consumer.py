import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps

bundle, asked, paths, arrays = Path(sys.argv[1]), sys.argv[2], sys.argv[3:], {}
manifest = json.loads((bundle / "manifest.json").read_text())
tasks, layout, spec, variants = (manifest[key] for key in ("tasks", "experts", "preprocess", "variants"))
for file in ("experts", "selector", "classes"):
    data = (bundle / f"{file}.safetensors").read_bytes()
    for name, entry in json.loads(data[8 : (start := 8 + int.from_bytes(data[:8], "little"))]).items():
        dtype = {"F16": "<f2", "F32": "<f4", "I64": "<i8"}[entry["dtype"]]
        arrays[name] = np.ndarray(entry["shape"], dtype, data, start + entry["data_offsets"][0])
n, d, size, scale = len(tasks) + 1, layout["vision_width"], spec["size"], manifest["backbone"]["logit_scale"]
for block in layout["vision_blocks"]:
    k, own = max(1, *(len(arrays.get(f"task.{t}.vision.{block}.experts", ())) for t in range(n))), {}
    for name, pad in {"experts": -1, "gates": 1, "router_weight": [0] * d, "router_bias": -1e4}.items():
        rows = [list(arrays.get(f"task.{t}.vision.{block}.{name}", ())) for t in range(n)]
        own[name] = np.array([row + [pad] * (k - len(row)) for row in rows])
    down, up = (np.pad(arrays[f"vision.{block}.{x}"], [(0, 1), (0, 0), (0, 0)])[own["experts"]] for x in ("down", "up"))
    own |= {"down": down.reshape(n, -1, d), "up": (up * own["gates"][..., None, None]).swapaxes(1, 2).reshape(n, d, -1)}
    arrays |= {f"experts.{block}.{name}": value.astype(np.float32) for name, value in own.items()}
graph = ort.InferenceSession(bundle / next(v["image"] for v in variants if "CPUExecutionProvider" in v["providers"]))
for photo in map(Image.open, paths):
    photo.draft(photo.mode, (3 * size, 3 * size) if spec.get("decoding") == "scaled" else photo.size)
    image: Image.Image = ImageOps.exif_transpose(photo)
    image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)) if image.mode == "I;16" else image
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    sides = [int(size * side / min(flat.size)) for side in flat.size]
    flat = flat.resize(sides, Image.Resampling[spec["interpolation"].upper()])
    left, top = (round((side - size) / 2) for side in sides)
    arrays["images"] = np.asarray(flat)[None, top : top + size, left : left + size]
    t = {"auto": -1, "none": -2}.get(asked) or [task["name"] for task in tasks].index(asked)
    feeds = arrays | {"task": np.array([t]), **{f"selector.{name}": value for name, value in arrays.items()}}
    features, used, _, summary = graph.run(None, {value.name: feeds[value.name] for value in graph.get_inputs()})
    among, kind = ([t], "task") if (t := used.item()) >= 0 else (range(len(tasks)), "plain")
    vectors, head = np.concatenate([arrays[f"{kind}.{i}"] for i in among]), arrays.get(f"head.{t}", 0 * summary)
    shares = np.exp(scale * (vectors @ features[0] + head @ summary[0]).astype(float))
    print(json.dumps([t, [a for i in among for a in tasks[i]["classes"]], (shares / shares.sum()).tolist()]))
