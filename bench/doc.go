// Package bench measures how fast the stack is, beside the kernel's own.
//
// # What is measured against what
//
// A [Scenario] is a kind of traffic, such as [TCP]. Its cases (a direction, a size, a
// number of connections) run over each [Link] that was asked for, and over [Kernel],
// which is the yardstick: the same program on kernel sockets over a veth pair with
// segmentation offload. The other end of every link but the one in memory is a process
// of its own (Config.Peer), on kernel sockets, so that it doesn't share a Go scheduler
// with the stack under test. Every kernel socket that sends is set to [CongestionControl],
// whatever the machine's default is, because the choice changes the result more than
// most of what is measured.
//
// # How
//
// Runs are interleaved: a round measures each case over each link, one after the other, and there
// are several rounds. What the machine does beside this changes slowly, so results of one round
// can be compared although results of two rounds can't; a ratio is made of two results
// of the same round, and the median of these ratios is what counts. Each run warms up,
// and is then measured for a window. Bytes and packets are counted by the receiver, by its own clock.
//
// CPU time is that of both processes, as getrusage tells it. Heap allocations are those
// of the process with the stack, divided by the frames that its link has carried; a
// super-frame of 64 KiB is one.
//
// # What this doesn't say
//
// Both ends and the link are one machine, and share its processors; there is no wire,
// no loss and no other host. The figures say what a stack costs, not what a network
// would carry. On a machine with other users the level drifts from minute to
// minute: compare ratios, not levels, and never those of different runs of the program.
package bench
