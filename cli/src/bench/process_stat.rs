//! What Linux knows of a process.

/// A process, in clock ticks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) name: String,
    pub(super) parent: u32,
    pub(super) own: u64,
    /// Of its children that have ended.
    pub(super) ended: u64,
}

impl Stat {
    pub(super) fn read(process: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    /// The program's name, which may contain any character, is in parentheses; the fields after it are counted.
    fn parse(stat: &str) -> Option<Self> {
        let (start, rest) = stat.rsplit_once(')')?;
        let name = start.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            name,
            parent: fields.get(1)?.parse().ok()?,
            own: number(11)? + number(12)?,
            ended: number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194304 900 0 0 0 150 50 20 4 20 0 9 0 100 1 2";
        assert_eq!(Stat::parse(stat), Some(Stat { name: "a) b".to_owned(), parent: 3, own: 200, ended: 24 }));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }
}
