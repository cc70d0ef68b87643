//! A guard by which an actor's death is noticed.

use tokio::sync::mpsc;

use super::messages::ActorKind;

/// Reports the death of the actor that holds it. A panic in an actix handler drops the actor, so it is reported too.
pub(crate) struct DeathWatch {
    kind: ActorKind,
    deaths: mpsc::UnboundedSender<ActorKind>,
}

impl DeathWatch {
    pub(super) fn new(kind: ActorKind, deaths: mpsc::UnboundedSender<ActorKind>) -> Self {
        Self { kind, deaths }
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        // The receiver is dropped only with the whole system.
        let _ = self.deaths.send(self.kind.clone());
    }
}

/// Implements the message that makes an actor panic, for tests of supervision.
macro_rules! panics_on_demand {
    ($actor:ty) => {
        #[cfg(feature = "fault-injection")]
        impl actix::Handler<crate::system::messages::Panic> for $actor {
            type Result = ();

            fn handle(&mut self, message: crate::system::messages::Panic, _: &mut Self::Context) {
                panic!("asked to: {:?}", message.0);
            }
        }
    };
}
pub(crate) use panics_on_demand;
