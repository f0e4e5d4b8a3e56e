"""Drives the stand-in of Exotel with pyexotel, an independent client: prints one JSON line per step."""

import json
import os

import pyexotel

base = os.environ["EXOTEL_URL"]
account = dict(
    api_key=os.environ["EXOTEL_KEY"],
    api_secret=os.environ["EXOTEL_TOKEN"],
    sid=os.environ["EXOTEL_SID"],
)


def client(**other):
    """The client writes https:// itself; everything else is its own."""
    made = pyexotel.Exotel(**{**account, **other})
    made.call_ep = made.call_ep.replace("https://api.exotel.com", base)
    return made


def told(step, answer):
    print(json.dumps({"step": step, "answer": answer}), flush=True)


dialer = client()
placed = dialer.call("+919876543210", "+919123456789", os.environ["EXOTEL_EXOPHONE"])
told("call", placed)
told("details", dialer.get_call_info(placed["Call"]["Sid"]))
told("flow", dialer.connect_flow("09123456789", os.environ["EXOTEL_EXOPHONE"], "1234"))
# The client prints what went wrong and returns nothing.
told("unknown call", dialer.get_call_info("0" * 32))
told("wrong token", client(api_secret="wrong").get_call_info(placed["Call"]["Sid"]))
told("wrong sid", client(sid="another").call("1", "2", "3"))
