"""What Triton's own client gets from a server; run by the Python of `.venv-triton`, where it is installed.

usage: python triton_client.py HOST:PORT MODEL FOLDER

Reads `FOLDER/images.npy`, writes `FOLDER/binary.npy` and `FOLDER/json.npy`, and prints one JSON document.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(address: str, model: str, folder: Path) -> None:
    """Asks for everything that the client offers and this server has."""
    http: Any = importlib.import_module("tritonclient.http")
    images = np.load(folder / "images.npy", allow_pickle=False)
    with http.InferenceServerClient(address) as client:
        found = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model, "1"),
            "other_ready": client.is_model_ready("other"),
            "server": client.get_server_metadata(),
            "model": client.get_model_metadata(model),
        }
        for name, binary in (("binary", True), ("json", False)):
            tensor = http.InferInput("input", list(images.shape), "FP32")
            tensor.set_data_from_numpy(images, binary_data=binary)
            asked = [http.InferRequestedOutput("logits", binary_data=binary)]
            result = client.infer(model, [tensor], outputs=asked, request_id=name)
            np.save(folder / f"{name}.npy", result.as_numpy("logits"))
            found[f"{name}_id"] = result.get_response()["id"]
        asked = [http.InferRequestedOutput("logits", class_count=2)]
        found["classes"] = [[text.decode() for text in row] for row in client.infer(
            model, [tensor], outputs=asked).as_numpy("logits")]  # fmt: skip
        plain = client.infer(model, [tensor])
        found["plain_equal"] = bool((plain.as_numpy("logits") == np.load(folder / "binary.npy")).all())
        try:
            wrong = http.InferInput("input", [1, 3, 2, 2], "FP32")
            wrong.set_data_from_numpy(np.zeros((1, 3, 2, 2), np.float32))
            client.infer(model, [wrong])
        except http.InferenceServerException as exc:
            found["refused"] = [exc.status(), exc.message()]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
