from edgellm.cli.start import main

main()
