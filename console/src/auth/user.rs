//! Users of the console, by name and role.

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Read.
    Reader,
    /// Read, and change events.
    Operator,
}

/// A user of the console: a name, by which changes are recorded, and what the user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    role: Role,
}

impl User {
    /// A user who may read and change events.
    #[must_use]
    pub fn operator(name: impl Into<String>) -> Self {
        Self { name: name.into(), role: Role::Operator }
    }

    /// A user who may only read.
    #[must_use]
    pub fn reader(name: impl Into<String>) -> Self {
        Self { name: name.into(), role: Role::Reader }
    }

    /// The user of a role's secret without a name.
    pub(super) fn unnamed(role: Role) -> Self {
        match role {
            Role::Operator => Self::operator("operator"),
            Role::Reader => Self::reader("reader"),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }
}
