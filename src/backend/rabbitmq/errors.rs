//! What the broker's errors mean, by AMQP's reply codes.

use lapin::ErrorKind;
use lapin::uri::AMQPUri;

/// The most characters of a name or a text of the broker in a message.
const MAX_TEXT: usize = 300;

const CONNECTION_FORCED: u16 = 320;
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// Where events are published, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    exchange: String,
    vhost: String,
    user: String,
}

impl Target {
    pub(super) fn new(address: &AMQPUri, exchange: &str) -> Self {
        Self {
            exchange: exchange.to_owned(),
            vhost: address.vhost.clone(),
            user: address.authority.userinfo.username.clone(),
        }
    }

    /// The exchange, as messages name it.
    pub(super) fn exchange(&self) -> String {
        match self.exchange.as_str() {
            "" => "the default exchange".to_owned(),
            name => format!("exchange `{}`", printable(name)),
        }
    }

    /// Why there is no connection, and what to do.
    pub(super) fn explain_login(&self, error: &lapin::Error) -> String {
        let (user, vhost) = (printable(&self.user), printable(&self.vhost));
        match code(error) {
            Some(ACCESS_REFUSED) => format!("login as `{user}` refused: check user and password in `url`"),
            Some(NOT_ALLOWED) => format!(
                "virtual host `{vhost}` refused ({}): check `url`, in which the usual one is /%2f, or run \
                 `rabbitmqctl add_vhost` and `rabbitmqctl set_permissions`",
                text(error)
            ),
            _ => self.explain(error),
        }
    }

    /// Why the channel or the connection ended, and what to do.
    pub(super) fn explain(&self, error: &lapin::Error) -> String {
        let (exchange, vhost) = (printable(&self.exchange), printable(&self.vhost));
        match code(error) {
            Some(NOT_FOUND) => format!(
                "exchange `{exchange}` does not exist in virtual host `{vhost}`: correct `exchange`, or declare it, as by \
                 `rabbitmqadmin --vhost={vhost} declare exchange name={exchange} type=topic`"
            ),
            Some(ACCESS_REFUSED) => format!(
                "user `{}` may not write to {} in virtual host `{vhost}`: allow it by `rabbitmqctl set_permissions`",
                printable(&self.user),
                self.exchange()
            ),
            Some(CONNECTION_FORCED) => format!("the broker closed the connection ({})", text(error)),
            Some(code) => format!("the broker answered {code} ({})", text(error)),
            None => match error.kind() {
                ErrorKind::IOError(error) => error.to_string(),
                ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidConnectionState(_) => {
                    "connection closed".to_owned()
                }
                _ => error.to_string(),
            },
        }
    }
}

/// Why publishers are blocked.
pub(super) fn blocked(alarm: &str) -> String {
    let alarm = if alarm.is_empty() { "an alarm".to_owned() } else { printable(alarm) };
    format!("the broker blocks publishers ({alarm}): see `rabbitmq-diagnostics alarms`")
}

/// Whether the broker found a message with a body of this size too large.
pub(super) fn is_too_large(error: &lapin::Error, size: usize) -> bool {
    code(error) == Some(PRECONDITION_FAILED) && refused_size(&text(error)) == Some(size)
}

/// Whether the broker found some message too large.
pub(super) fn is_some_too_large(error: &lapin::Error) -> bool {
    code(error) == Some(PRECONDITION_FAILED) && refused_size(&text(error)).is_some()
}

/// The text of the broker's answer.
pub(super) fn text(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => printable(error.get_message().as_str()),
        _ => String::new(),
    }
}

fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// From `PRECONDITION_FAILED - message size 2048 is larger than configured max size 1024`.
fn refused_size(text: &str) -> Option<usize> {
    let (_, after) = text.split_once("message size ")?;
    after.split(' ').next()?.parse().ok()
}

/// A text for a message: shortened, and without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod unit_tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn error(code: u16, text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::from_id(code, text.into()).unwrap()).into()
    }

    #[test]
    fn errors_say_what_to_do_and_show_no_password() {
        let address: AMQPUri = "amqp://ann:s3cret@h:5672/shop".parse().unwrap();
        let target = Target::new(&address, "orders");
        for (error, words) in [
            (error(404, "NOT_FOUND - no exchange"), "declare exchange name=orders"),
            (error(403, "ACCESS_REFUSED - access to exchange"), "user `ann` may not write to exchange `orders`"),
            (error(320, "CONNECTION_FORCED - shutdown"), "closed the connection (CONNECTION_FORCED - shutdown)"),
            (error(541, "INTERNAL_ERROR"), "answered 541 (INTERNAL_ERROR)"),
        ] {
            let said = target.explain(&error);
            assert!(said.contains(words) && !said.contains("s3cret"), "{said}");
        }
        let refused = target.explain_login(&error(403, "ACCESS_REFUSED - Login was refused"));
        assert!(refused.contains("login as `ann` refused"), "{refused}");
        let no_host = target.explain_login(&error(530, "NOT_ALLOWED - vhost shop not found"));
        assert!(no_host.contains("add_vhost") && no_host.contains("`shop`"), "{no_host}");
    }

    #[test]
    fn the_size_of_a_message_that_is_too_large_is_read() {
        let text = "PRECONDITION_FAILED - message size 2048 is larger than configured max size 1024";
        assert!(is_too_large(&error(406, text), 2048) && !is_too_large(&error(406, text), 2047));
        assert!(!is_some_too_large(&error(406, "PRECONDITION_FAILED - inequivalent arg")));
        assert!(!is_some_too_large(&error(404, text)));
    }
}
