"""Drives the stand-in of a mail server with Python's smtplib: ADDRESS USERNAME PASSWORD as arguments; a JSON object per step."""

import json
import smtplib
import sys
from email.message import EmailMessage

host, port = sys.argv[1].rsplit(":", 1)
username, password = sys.argv[2:4]


def told(step, **what):
    print(json.dumps({"step": step, **what}))


def client(secret=password):
    smtp = smtplib.SMTP(host, int(port), timeout=10)
    try:
        smtp.login(username, secret)
    except smtplib.SMTPAuthenticationError as error:
        return None, error.smtp_code
    return smtp, 235


def mail(smtp, *to):
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message["From"] = username
    message["To"] = ", ".join(to)
    message.set_content(".leading dot\n")
    try:
        return {address: code for address, (code, _) in smtp.send_message(message).items()}
    except smtplib.SMTPRecipientsRefused as error:
        return {address: code for address, (code, _) in error.recipients.items()}
    except smtplib.SMTPResponseException as error:
        return error.smtp_code
    except smtplib.SMTPServerDisconnected:
        return "closed"


told("stale", code=client("wrong")[1])
smtp, code = client()
told("login", code=code)
told("taken", refused=mail(smtp, "a@example.com"))
told("some", refused=mail(smtp, "b@example.com", "rcpt-550-5.1.1@example.com", "rcpt-452@example.com"))
told("all", refused=mail(smtp, "rcpt-571@example.com"))
told("end", refused=mail(smtp, "end-550-5.4.5@example.com"))
told("middle", refused=mail(smtp, "data-close@example.com"))
told("unknown", refused=mail(client()[0], "end-close@example.com"))
