package engine

// KnownTo returns what the settings in a database say of where leases are to be looked
// for, so that what compares them with the snapshots of a stopped engine looks in the
// same places.
func KnownTo(settings map[string]string) Known {
	k := Known{Names: []string{"default"}} // that of dockerd's, which records none
	if names := settings[settingNames]; names != "" {
		k.Names = split(names)
	}
	if namespaces := settings[settingNamespaces]; namespaces != "" {
		k.Namespaces = split(namespaces)
	}
	return k
}
