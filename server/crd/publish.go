package crd

func (c *Controller) publish() {}
