// Package sqldb is the layer between one SQL text and two databases: it rewrites
// PostgreSQL's spelling for SQLite, keeps prepared statements, gathers writes that arrive
// together into one transaction (group commit), and runs the migrations.
//
// It knows no table of ours but the two that it needs itself: schema_migrations, and log,
// whose one row holds the counter of positions.
//
// # Writing
//
// [DB.Write] is the only way to write. One goroutine, owned by the DB, takes the waiting
// functions, runs them one after the other in one transaction, gives out positions, commits
// once, and then answers each. The order inside a transaction:
//
//  1. the functions run, in order of arrival; they take row locks in the order room row,
//     account row;
//  2. the counter's row is raised once, by as many positions as were asked for with
//     [Tx.OnPos], which locks it until the commit, so positions become visible in order;
//  3. the functions given to OnPos run, with their positions;
//  4. commit; the functions given to [Tx.AfterCommit] run in order; the writers are answered.
//
// A function that fails never fails its neighbours: the transaction is rolled back and run
// again with a savepoint around each function (and after a deadlock, which only PostgreSQL
// with several processes can give, each in a transaction of its own). So a function may run
// more than once: it must set its results, not add to them.
// A function does not see rows that functions before it in the group write in step 3. What others
// must see at once is written in step 1, and given its position in step 3; who must see rows that
// can't be, as their position is their key, uses [DB.WriteAlone].
//
// # Reading
//
// [DB.Read] gives one unchanging snapshot for as long as the function runs.
package sqldb
