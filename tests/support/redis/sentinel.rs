//! A master, a replica of it, and three sentinels that watch them.

use super::super::{PATIENCE, eventually};
use super::{Server, connect};

/// The name under which the sentinels know the master.
pub(crate) const NAME: &str = "mymaster";

pub(crate) struct Watched {
    pub(crate) master: Server,
    pub(crate) replica: Server,
    sentinels: Vec<Server>,
}

impl Watched {
    pub(crate) async fn start(options: &[(&str, &str)]) -> Self {
        let master = Server::start(options);
        let replica = Server::replica_of(&master, options).await;
        let settings = format!(
            "sentinel monitor {NAME} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {NAME} 2000\n\
             sentinel failover-timeout {NAME} 5000\n",
            master.port()
        );
        let sentinels: Vec<Server> = (0..3).map(|_| Server::with(Vec::new(), Some(settings.clone()))).collect();
        for sentinel in &sentinels {
            let mut connection = connect(&sentinel.url()).await;
            eventually("a sentinel knows the others and the replica", PATIENCE, async || {
                let mut question = redis::cmd("SENTINEL");
                let known: Vec<redis::Value> =
                    question.arg(&["master", NAME]).query_async(&mut connection).await.unwrap();
                let number = |name: &str| {
                    let mut fields = known.chunks_exact(2);
                    let field = fields.find(|field| field[0] == redis::Value::BulkString(name.into())).unwrap();
                    redis::from_redis_value::<u32>(field[1].clone()).unwrap()
                };
                number("num-other-sentinels") == 2 && number("num-slaves") == 1
            })
            .await;
        }
        Self { master, replica, sentinels }
    }

    /// Requests a failover from the sentinels.
    pub(crate) async fn fail_over(&self) {
        let mut command = redis::cmd("SENTINEL");
        let mut connection = connect(&self.sentinels[0].url()).await;
        let () = command.arg(&["failover", NAME]).query_async(&mut connection).await.unwrap();
    }

    /// The sentinels' addresses.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }

    /// The line of a `[publishers.*]` with these sentinels.
    pub(crate) fn settings(&self) -> String {
        format!("sentinel = {{ master = \"{NAME}\", nodes = {:?} }}", self.addresses())
    }
}
