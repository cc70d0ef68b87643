//! What kind of server it is, and the types that it has.

use diesel::dsl::sql;
use diesel::sql_types::Text;

use super::error::Failure;
use super::session::Session;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    is_mariadb: bool,
    version: (u32, u32, u32),
}

impl Server {
    pub(super) async fn ask(session: &mut Session<'_>) -> Result<Self, Failure> {
        session.load_one::<_, String>(sql::<Text>("SELECT VERSION()")).await.map(|version| Self::parse(&version))
    }

    fn parse(version: &str) -> Self {
        let mut numbers = version.split(|character: char| !character.is_ascii_digit()).map(str::parse);
        let mut number = || numbers.next().and_then(Result::ok).unwrap_or(0);
        Self { is_mariadb: version.contains("MariaDB"), version: (number(), number(), number()) }
    }

    /// A problem, if the server lacks what the outbox needs.
    pub(super) fn problem(self) -> Option<&'static str> {
        let oldest = if self.is_mariadb { (10, 6, 0) } else { (8, 0, 17) };
        (self.version < oldest).then_some("it is older than MariaDB 10.6 and MySQL 8.0.17")
    }

    /// A statement of a migration with this server's types: of ids, as Django chooses it, and a collation under which texts are
    /// equal only if their characters are, spaces at the end included.
    pub(super) fn adapt(self, sql: &str) -> String {
        let uuid = if self.is_mariadb && self.version >= (10, 7, 0) { "uuid" } else { "char(32)" };
        let exact = if self.is_mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" };
        sql.replace("{uuid}", uuid).replace("{exact}", exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_its_types() {
        let adapted = |version: &str| Server::parse(version).adapt("{uuid} {exact}");
        assert_eq!(adapted("10.11.19-MariaDB-0+deb12u1"), "uuid utf8mb4_nopad_bin");
        assert_eq!(adapted("10.6.21-MariaDB"), "char(32) utf8mb4_nopad_bin");
        assert_eq!(adapted("8.0.41"), "char(32) utf8mb4_0900_bin");
        assert!(Server::parse("10.5.1-MariaDB").problem().is_some() && Server::parse("8.4.0").problem().is_none());
    }
}
