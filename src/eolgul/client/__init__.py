"""Call the service from Python: `Client` and, for asyncio, `AsyncClient`.

    with Client("https://faces.example", api_key=key) as client:
        print(client.verify(Path("a.jpg"), Path("b.jpg")).verdict)

Images are `bytes` or a path. Answers are typed (`eolgul.client.answers`). A refusal raises `EolgulError` with the `code` of
its problem document; temporary refusals (busy, rate limited) and lost connections are retried.
"""

from eolgul.client.asynchronous import AsyncClient
from eolgul.client.blocking import Client
from eolgul.client.calls import Image
from eolgul.client.transport import EolgulError, Retries

__all__ = ["AsyncClient", "Client", "EolgulError", "Image", "Retries"]
