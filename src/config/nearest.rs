//! "Did you mean": the known name that a mistyped one is nearest to.

/// The nearest of `known`, if it is near enough to be what was meant.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    // A key longer than any of ours cannot be near one, and would only cost time.
    if name.len() > 64 {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let best = known.map(|candidate| (distance(&name, candidate), candidate)).min()?;
    // One slip in three letters still reads as the same word.
    (best.0 <= name.chars().count().max(best.1.len()).div_ceil(3)).then_some(best.1)
}

/// Optimal string alignment: insertions, deletions, changes, and neighbours swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut cost = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(rows[i - 2][j - 2] + 1);
            }
            row.push(cost);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = || ["listen", "hosts", "origins", "max_age"].into_iter();
        assert_eq!(nearest("lisen", known()), Some("listen"));
        assert_eq!(nearest("lsiten", known()), Some("listen"));
        assert_eq!(nearest("max-age", known()), Some("max_age"));
        assert_eq!(nearest("certificate", known()), None);
        assert_eq!(nearest("", std::iter::empty()), None);
    }
}
