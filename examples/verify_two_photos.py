"""Do two photos show the same person? Ask a running service, or load a model package on this machine.

    python examples/verify_two_photos.py a.jpg b.jpg --url http://127.0.0.1:3000
    python examples/verify_two_photos.py a.jpg b.jpg --model runs/first/model

The service's API key is read from the environment variable EOLGUL_API_KEY. The model package must have been evaluated:
the evaluation calibrates the threshold.
"""

import argparse
import os
from pathlib import Path

from eolgul.client import Client, EolgulError
from eolgul.errors import InputError


def ask_service(url: str, image1: Path, image2: Path) -> str:
    """Ask the service at `url`."""
    with Client(url, api_key=os.environ.get("EOLGUL_API_KEY")) as client:
        answer = client.verify(image1, image2)
    if answer.false_match_rate is None:  # a photo is too poor: no rate holds for it
        return f"{answer.verdict}: {', '.join(f'{one.image} {one.reason}' for one in answer.reasons)}"
    return f"{answer.verdict}: similarity {answer.similarity:.3f}, false match rate {answer.false_match_rate:.2g}"


def compare_here(model: Path, image1: Path, image2: Path) -> str:
    """Do the service's work in this process."""
    from eolgul.serving.inference.model import ServedModel, open_package
    from eolgul.serving.settings import Settings

    settings = Settings(model=model)
    served = ServedModel(open_package(settings), settings)
    first, _ = served.analyse(image1.read_bytes())  # finds the face, aligns it, computes its embedding
    second, _ = served.analyse(image2.read_bytes())
    answer = served.verify(first, second)
    if answer.false_match_rate is None:
        return f"{answer.word}: {', '.join(f'{image} {reason}' for image, reason in answer.reasons)}"
    return f"{answer.word}: similarity {answer.similarity:.3f}, false match rate {answer.false_match_rate:.2g}"


def main() -> None:
    """Print the verdict, or why there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image1", type=Path)
    parser.add_argument("image2", type=Path)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="address of a running service")
    where.add_argument("--model", type=Path, help="folder of a model package")
    options = parser.parse_args()
    try:
        if options.url:
            print(ask_service(options.url, options.image1, options.image2))
        else:
            print(compare_here(options.model, options.image1, options.image2))
    except EolgulError as error:  # the service refused, or cannot be reached
        raise SystemExit(f"{options.url}: {error} ({error.code})") from error
    except InputError as error:  # for example: no face in a photo
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
