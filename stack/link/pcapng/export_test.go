package pcapng

// SetMaxFlows makes the table of connections smaller than a test could fill.
func (w *Writer) SetMaxFlows(n int) { w.blanker.flows.max = n }
