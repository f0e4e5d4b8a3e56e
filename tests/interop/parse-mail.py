"""Reads mails (a JSON list of base64 texts on stdin) and says what it found in each, as parse-mail.mjs does."""

import base64
import email
import email.policy
import json
import sys


def boxes(message, name):
    header = message[name]
    return [[one.display_name or None, one.addr_spec] for one in header.addresses] if header else []


def text(message, kind):
    body = message.get_body(preferencelist=(kind,))
    return body.get_content() if body else None


def files(message):
    for part in message.walk():
        if part.get_filename():
            content = base64.b64encode(part.get_payload(decode=True)).decode()
            cid = part["content-id"]
            yield [part.get_filename(), part.get_content_type(), content, cid.strip("<>") if cid else None]


def read(mail):
    message = email.message_from_bytes(base64.b64decode(mail), policy=email.policy.default)
    defects = [str(defect) for part in message.walk() for defect in part.defects]
    assert not defects, (defects, base64.b64decode(mail))
    return {
        "subject": str(message["subject"]),
        "from": boxes(message, "from"),
        "to": boxes(message, "to"),
        "cc": boxes(message, "cc"),
        "replyTo": boxes(message, "reply-to"),
        "messageId": str(message["message-id"]),
        "text": text(message, "plain"),
        "html": text(message, "html"),
        "files": list(files(message)),
    }


json.dump([read(mail) for mail in json.load(sys.stdin)], sys.stdout)
