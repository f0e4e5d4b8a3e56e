//! Why a conversation with a mail server ends early.

#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the mail server closed the connection")]
    Closed,
    #[error("the mail server's answer is not an SMTP reply")]
    NoReply,
    #[error("the mail server sent more than it was asked for")]
    Unasked,
    #[error("the mail server answered {0}, which is not an answer to this command")]
    Unexpected(u16),
    #[error("a command would contain a line break")]
    LineBreak,
}
