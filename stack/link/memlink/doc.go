// Package memlink joins link.Devices in memory: a cable between two of them ([Pair],
// [New]), and a learning switch between many ([NewSwitch]).
//
// There is no queue and no goroutine. Send calls the deliver functions of the
// receiving devices in the goroutine of the sender, with the sender's own frames,
// super-frames and partial checksums included. So a frame is copied once, by its
// receiver, and costs no more than the call. It follows that deliver may run in
// several goroutines at once, and that it may Send in turn, down to where the
// recursion ends.
//
// What a real cable does, this one does. A frame that reaches a device which isn't
// receiving, because Receive hasn't been called or has ended, is lost: Send reports
// success and [Stats] counts the loss. A cable that is unplugged ([Device.SetUp]) or
// whose other end is closed has no carrier: both ends are told through Watch, and
// Send returns link.ErrDown.
package memlink
