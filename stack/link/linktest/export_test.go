package linktest

import "time"

// SetPatience is for devices that are known to be broken.
func SetPatience(d time.Duration) { patience = d }
